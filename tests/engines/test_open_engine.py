"""From settings to an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from connector.documents import Document
from connector.engines.open_engine import index_folder, open_engine
from connector.errors import EngineError, SettingsError
from connector.sections import Settings
from connector.settings import load_settings


def made(folder: Path, **engine: Any) -> Settings:
    options = {f"engine.{name}": value for name, value in engine.items()}
    return load_settings("/dev/null", {"cache.path": str(folder), **options}, {})


def test_indexes_lie_in_the_cache(tmp_path: Path) -> None:
    settings = made(tmp_path, index="mine")
    with open_engine(settings) as engine:
        engine.index([Document("1", {"text": "cat"})])
    assert index_folder(settings) == tmp_path / "indexes" / "mine"
    assert (tmp_path / "indexes" / "mine" / "rh-index.json").is_file()


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_or_in_the_folder_that_is_named(tmp_path: Path, prefix: str) -> None:
    settings = made(tmp_path / "cache", url=f"{prefix}{tmp_path / 'own'}")
    assert index_folder(settings) == tmp_path / "own" / "default"


def test_weights_come_from_the_settings(tmp_path: Path) -> None:
    documents = [Document("1", {"title": "cat", "text": "x"}), Document("2", {"title": "x", "text": "cat"})]
    with open_engine(made(tmp_path)) as engine:
        engine.index(documents)
    with open_engine(made(tmp_path, fields="text^3")) as engine:
        assert [hit.id for hit in engine.search("cat", 5)] == ["2"]


@pytest.mark.parametrize("kind", ["opensearch", "elasticsearch"])
def test_a_query_of_ones_own_is_checked_at_once(tmp_path: Path, kind: str) -> None:
    with pytest.raises(SettingsError, match="nowhere says {query}"):
        open_engine(made(tmp_path, kind=kind, query_json='{"match_all": {}}'))
    with pytest.raises(SettingsError, match="not JSON"):
        open_engine(made(tmp_path, kind=kind, query_json="{query}"))
    with pytest.raises(SettingsError, match="for clusters"):
        open_engine(made(tmp_path, query_json='{"match": {"text": "{query}"}}'))


@pytest.mark.parametrize("kind", ["opensearch", "elasticsearch"])
def test_a_certificate_that_is_not_there_is_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(EngineError, match="engine.ca_certs = /nowhere.pem: there is no such file"):
        open_engine(made(tmp_path, kind=kind, url="https://localhost:1", ca_certs="/nowhere.pem"))


@pytest.mark.parametrize("name", ["..", ".", "a/b", "/etc", "a\\b", "a\x00", "a\nb"])
def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="plain name"):
        open_engine(made(tmp_path, index=name))


def test_an_address_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="takes a folder"):
        open_engine(made(tmp_path, url="https://localhost:9200"))


@pytest.mark.parametrize("kind", ["opensearch", "elasticsearch"])
def test_a_cluster_analyzes_by_its_own_mapping(kind: str) -> None:
    given = {"engine.kind": kind, "engine.language": "german"}
    with pytest.raises(SettingsError, match="engine.language = german: it is for the embedded engine.*mapping"):
        open_engine(load_settings("/dev/null", given, {}))
