"""``rh-connector init``: on real nodes and the embedded engine, with and without a terminal."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from connector.cli import cli
from connector.documents import Document
from connector.engines.cluster.connect import connect
from connector.engines.open_engine import open_engine
from connector.errors import DataError, EngineError, SettingsError
from connector.settings import load_settings
from tests.engines.cluster.cluster_double import doubling
from tests.engines.cluster.other_services import ANSWERS, other_service
from tests.nodes.process import Node

TEXTS = [Document("1", {"title": "Cats", "text": "Adult cats sleep"}), Document("2", {"title": "Rust", "text": "x"})]


def init(folder: Path, *words: str, **environment: str) -> dict[str, Any]:
    given = ["--config", os.devnull, "--json", "--set", f"cache.path={folder / 'cache'}", "init", *words]
    done = CliRunner().invoke(cli, [*given, "--out", str(folder / "config.yaml")], env=environment)
    assert done.exit_code == 0, (done.output, done.exception)
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def refused(folder: Path, *words: str) -> str:
    given = ["--config", os.devnull, "--set", f"cache.path={folder / 'cache'}", "init", *words]
    done = CliRunner().invoke(cli, [*given, "--out", str(folder / "config.yaml")])
    assert isinstance(done.exception, SettingsError | EngineError | DataError), done.output
    assert not (folder / "config.yaml").exists()
    return str(done.exception)


def written(folder: Path) -> dict[str, Any]:
    text = yaml.safe_load((folder / "config.yaml").read_text())
    assert isinstance(text, dict)
    return text


def fill(folder: Path, index: str = "default", **engine: str) -> None:
    options = {f"engine.{name}": value for name, value in engine.items()}
    settings = load_settings(os.devnull, {"cache.path": str(folder / "cache"), "engine.index": index, **options}, {})
    with open_engine(settings) as opened:
        opened.index(TEXTS)


def test_an_embedded_index_that_is_there(tmp_path: Path) -> None:
    fill(tmp_path, "pets")
    found = init(tmp_path)
    assert (found["index"], found["fields"], found["documents"]) == ("pets", ["title", "text"], 2)
    assert found["hits"] >= 1 and " search -- " in found["next"]
    assert written(tmp_path) == {"engine": {"kind": "embedded", "index": "pets", "fields": ["title", "text"]}}
    # What was written is what the next command reads.
    settings = load_settings(tmp_path / "config.yaml", {}, {})
    assert settings.engine.index == "pets"


def test_the_next_command_holds_no_shell_of_a_document(tmp_path: Path) -> None:
    fill(tmp_path, "pets")
    words = """-x costs $HOME `id` "it's" more"""
    command = init(tmp_path, "--query", words)["next"]
    assert shlex.split(command)[-3:] == ["search", "--", words]


def test_what_is_set_counts_as_an_option_does(tmp_path: Path) -> None:
    fill(tmp_path, "pets")
    fill(tmp_path, "plants")
    found = init(tmp_path, RH_ENGINE__INDEX="plants", RH_ENGINE__FIELDS="text^2")
    assert (found["index"], found["fields"]) == ("plants", ["text^2"])
    done = CliRunner().invoke(
        cli,
        [
            "--config",
            os.devnull,
            "--set",
            f"cache.path={tmp_path / 'cache'}",
            "--set",
            "engine.index=cows",
            "init",
            "--out",
            str(tmp_path / "other.yaml"),
        ],
    )
    assert "engine.index = cows: there is no such index; there are: pets, plants" in str(done.exception)


def test_half_a_character_is_no_word(tmp_path: Path) -> None:
    settings = load_settings(os.devnull, {"cache.path": str(tmp_path / "cache")}, {})
    with open_engine(settings) as engine:
        engine.index([Document("1", {"text": "\ud800 abc"})])
    assert shlex.split(init(tmp_path)["next"])[-1].endswith("abc")


def test_with_nothing_there_the_next_command_makes_an_index(tmp_path: Path) -> None:
    found = init(tmp_path)
    assert found["documents"] == 0 and found["next"].endswith(" index SOURCE")
    assert written(tmp_path)["engine"]["kind"] == "embedded"


def test_a_file_that_is_there_is_never_overwritten_unasked(tmp_path: Path) -> None:
    own = tmp_path / "config.yaml"
    own.write_text("rerank: {window: 7}\n")
    done = CliRunner().invoke(cli, ["--config", os.devnull, "init", "--out", str(own)])
    assert isinstance(done.exception, SettingsError) and "--force" in str(done.exception)
    assert own.read_text() == "rerank: {window: 7}\n"
    assert init(tmp_path, "--force")["kind"] == "embedded" and "engine" in written(tmp_path)


def test_without_a_terminal_several_indexes_are_named_and_nothing_is_asked(tmp_path: Path) -> None:
    fill(tmp_path, "pets")
    fill(tmp_path, "plants")
    assert refused(tmp_path) == "there are several indexes; give one with --index: pets, plants"
    assert "there is no such index; there are: pets, plants" in refused(tmp_path, "--index", "pet")
    assert "no text field: nope; the text fields are: title, text" in refused(
        tmp_path, "--index", "pets", "--fields", "nope"
    )
    assert init(tmp_path, "--index", "plants", "--fields", "title^2")["fields"] == ["title^2"]


def test_nobody_at_the_url(tmp_path: Path) -> None:
    assert "cannot reach http://127.0.0.1:9" in refused(tmp_path, "--url", "http://127.0.0.1:9")


@pytest.mark.parametrize("kind", [(), ("--kind", "opensearch"), ("--kind", "elasticsearch")])
@pytest.mark.parametrize("answer", ["a page", "not found", "an object"])
def test_another_service_at_the_url(tmp_path: Path, kind: tuple[str, ...], answer: str) -> None:
    with other_service(*ANSWERS[answer]) as url:
        said = refused(tmp_path, "--url", url, *kind)
    assert said.startswith(f"{url} is neither OpenSearch nor Elasticsearch") and "(of init: --url)" in said


@pytest.mark.parametrize("product", ["opensearch", "elasticsearch"])
def test_credentials_are_told_and_not_written(tmp_path: Path, product: str) -> None:
    with doubling(product, {"opensearch": "2.19.1", "elasticsearch": "9.1.0"}[product]) as double:
        double.answers = [(200, {"indices": [], "aliases": [], "data_streams": []})]
        url = double.url.replace("://", "://me:sword@")
        given = ["--config", os.devnull, "init", "--url", url, "--out", str(tmp_path / "config.yaml")]
        done = CliRunner().invoke(cli, given, env={"RH_ENGINE__RETRY_MS": "0"})
    assert done.exit_code == 0, (done.output, done.exception)
    text = (tmp_path / "config.yaml").read_text()
    assert "sword" not in text + done.output and "me:" not in text
    assert f"kind: {product}" in text
    for name in ("RH_ENGINE__USERNAME", "RH_ENGINE__PASSWORD"):
        assert name in text and f"Keep {name} set" in done.stdout


@pytest.fixture(params=["opensearch_node", "opensearch_3_node", "elasticsearch_node"])
def node(request: pytest.FixtureRequest) -> Node:
    found: Node = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def pets(node: Node, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    index = f"init-{uuid.uuid4().hex[:8]}"
    kind = request.node.callspec.params["node"].partition("_")[0]
    fill(tmp_path, index, kind=kind, url=node.url)
    yield index
    settings = load_settings(os.devnull, {"engine.kind": kind, "engine.url": node.url}, {})
    with closing(connect(settings.engine)) as connection:
        connection.request("DELETE", f"/{index}")


def test_a_cluster_is_found_out(node: Node, pets: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    found = init(tmp_path, "--url", node.url, "--index", pets)
    kind = request.node.callspec.params["node"].partition("_")[0]
    assert (found["kind"], found["url"], found["documents"]) == (kind, node.url, 2)
    assert found["fields"] == ["title", "text"] and found["hits"] >= 1
    engine = written(tmp_path)["engine"]
    assert (engine["kind"], engine["url"], engine["index"]) == (kind, node.url, pets)
    settings = load_settings(tmp_path / "config.yaml", {}, {})
    with open_engine(settings) as opened:
        assert [hit.id for hit in opened.search("cats", 5)] == ["1"]


@pytest.mark.slow
def test_on_a_terminal_it_asks(tmp_path: Path, repository: Path) -> None:
    fill(tmp_path, "pets")
    fill(tmp_path, "plants")
    ours, theirs = os.openpty()
    assert stat.S_ISCHR(os.fstat(theirs).st_mode)
    code = "from connector.cli import main; main()"
    given = [
        "--config",
        os.devnull,
        "--set",
        f"cache.path={tmp_path / 'cache'}",
        "init",
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *given],
        cwd=tmp_path,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    # Embedded; plants; the title alone.
    os.write(ours, b"\nplants\ntitle\n")
    out, _ = process.communicate()
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 0
    assert "Wrote config.yaml" in out and out.splitlines()[-1].startswith("Next: rh-connector search -- ")
    assert written(tmp_path)["engine"] == {"kind": "embedded", "index": "plants", "fields": ["title"]}
