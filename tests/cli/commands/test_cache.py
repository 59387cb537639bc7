"""``rh-connector cache``, and ``index --precompute`` that fills it."""

from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from connector.backbone.caching.sqlite_store import PassageStore, store_path
from connector.backbone.similarity import KeptVector
from connector.checkpoints.checkpoint import Checkpoint
from connector.cli import cli
from connector.errors import BackboneError, SettingsError
from connector.reranking.reranker import Reranker
from connector.sections import Settings
from connector.settings import load_settings
from tests.backbone.caching.test_sqlite_store import damage, data, key
from tests.embedding.tiny_model import save_embedder
from tests.routing.embedder_router import embedder_router

MB = 1_000_000


def run(folder: Path, *arguments: str | Path, disk_mb: int = 50) -> Result:
    options = ["--config", os.devnull, "--set", f"cache.path={folder}", "--set", f"cache.disk_mb={disk_mb}"]
    return CliRunner().invoke(cli, [*options, "--set", "router.mode=static", *map(str, arguments)])


def answer(folder: Path, *arguments: str | Path, disk_mb: int = 50) -> dict[str, Any]:
    result = run(folder, "--json", *arguments, disk_mb=disk_mb)
    assert result.exit_code == 0, result.output + str(result.exception)
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A cache folder with ten passages of 300 kB and 100 tokens."""
    with closing(PassageStore(store_path(tmp_path), 50 * MB)) as store:
        for number in range(1, 11):
            store.put(key(number), data(number), 100)
    return tmp_path


def test_status_of_nothing_makes_no_file(tmp_path: Path) -> None:
    found = answer(tmp_path, "cache", "status")
    assert (found["passages"], found["bytes"], found["million_passages_bytes"]) == (0, 0, None)
    assert answer(tmp_path, "cache", "verify")["checked"] == 0
    assert answer(tmp_path, "cache", "prune", "--all")["removed"] == 0
    assert not list(tmp_path.iterdir())
    assert "off: cache.disk_mb = 0" in run(tmp_path, "cache", "status", disk_mb=0).stdout


def test_status(filled: Path) -> None:
    found = answer(filled, "cache", "status")
    assert (found["passages"], found["tokens"], found["bytes"]) == (10, 1000, 10 * 300_000)
    assert found["limit_bytes"] == 50 * MB and found["tokens_per_passage"] == 100
    assert 300_000 < found["bytes_per_passage"] < 400_000
    assert found["million_passages_bytes"] == pytest.approx(found["bytes_per_passage"] * 1e6, rel=1e-5)
    lines = run(filled, "cache", "status").stdout.splitlines()
    assert lines[0].endswith("passages.sqlite3")
    assert any(line.startswith("a million") and " GB, at one passage a document" in line for line in lines)


def test_vectors_are_told_apart(filled: Path) -> None:
    before = answer(filled, "cache", "status")
    assert before["vectors"] == 0
    with closing(PassageStore(store_path(filled), 50 * MB)) as store:
        for number in range(4):
            store.put(key(100 + number), KeptVector(np.ones(384, dtype=np.float32)).to_bytes(), 0)
    found = answer(filled, "cache", "status")
    assert (found["passages"], found["vectors"], found["tokens_per_passage"]) == (10, 4, 100)
    # They are part of what a document takes.
    assert before["bytes_per_passage"] <= found["bytes_per_passage"] < 1.1 * before["bytes_per_passage"]
    assert "vectors       4 of an embedding model" in run(filled, "cache", "status").stdout.splitlines()
    assert run(filled, "cache", "verify").stdout.startswith("checked 14 passages and vectors, 0 damaged")
    assert run(filled, "cache", "prune").stdout.startswith("removed 0 passages and vectors; 14 are left")
    assert run(filled, "cache", "prune", "--all").stdout.startswith("removed 14 passages and vectors; 0 are left")


def test_prune(filled: Path) -> None:
    assert answer(filled, "cache", "prune")["removed"] == 0
    found = answer(filled, "cache", "prune", "--to-mb", "1")
    assert found["removed"] > 6 and found["passages"] == 10 - found["removed"] and found["file_bytes"] <= MB
    with closing(PassageStore(store_path(filled), 50 * MB)) as store:
        # The oldest went.
        assert store.has(key(10)) and not store.has(key(1))
    assert run(filled, "cache", "prune", disk_mb=1).stdout.startswith("removed 0 passages; ")
    assert answer(filled, "cache", "prune", "--all")["passages"] == 0


@pytest.mark.parametrize("options", [(), ("--all", "--to-mb", "1")])
def test_prune_asks_how_much_is_kept(filled: Path, options: tuple[str, ...]) -> None:
    assert isinstance(run(filled, "cache", "prune", *options, disk_mb=0).exception, SettingsError)


def test_prune_all_deletes_what_cannot_be_read(tmp_path: Path) -> None:
    path = store_path(tmp_path)
    path.parent.mkdir()
    path.write_bytes(b"nonsense" * 10_000)
    for command in ("status", "verify", "prune"):
        error = run(tmp_path, "cache", command).exception
        assert isinstance(error, BackboneError) and "cache prune --all" in str(error)
    assert answer(tmp_path, "cache", "prune", "--all")["passages"] == 0
    assert not path.exists()


def test_verify(filled: Path) -> None:
    damage(store_path(filled), 4)
    found = answer(filled, "cache", "verify")
    assert (found["checked"], found["damaged"]) == (10, 1)
    assert run(filled, "cache", "verify").stdout.startswith("checked 9 passages, 0 damaged")


@pytest.fixture
def weights(tmp_path: Path, settings: Settings, smollm2: Checkpoint) -> Path:
    """A cache folder with the weights, and nothing else."""
    folder = tmp_path / "cache"
    folder.mkdir()
    for part in settings.cache.path.iterdir():
        if part.name not in ("documents", "indexes", "progress"):
            (folder / part.name).symlink_to(part)
    return folder


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"_id": str(at), "text": text}) + "\n" for at, text in enumerate(texts)))
    return path


@pytest.mark.slow
def test_precompute_fills_the_cache_and_goes_on_where_it_was(weights: Path, tmp_path: Path, cats: list[str]) -> None:
    found = answer(weights, "index", write(tmp_path / "three.jsonl", cats[:3]), "--precompute")
    assert found["precomputed"].pop("seconds") > 0
    assert 0 < found["precomputed"].pop("file_bytes") < 50 * MB
    assert found["precomputed"] == {"documents": 3, "present": 0, "encoded": 3, "counted": "passages"}
    everything = write(tmp_path / "all.jsonl", cats)
    again = run(weights, "index", everything, "--precompute")
    assert "encoded 2 passages, 3 were there" in again.stdout, again.output
    status = answer(weights, "cache", "status")
    assert status["passages"] == 5 and status["tokens"] > 50
    # What a search finds was encoded by nobody but this command.
    options = {"cache.path": str(weights), "cache.disk_mb": 50, "router.mode": "static"}
    reranker = Reranker.from_settings(load_settings(os.devnull, options, {}))
    result = reranker.rerank("How long do cats sleep?", [{"id": at, "text": text} for at, text in enumerate(cats)])
    assert (result.encoded, result.cached) == (0, 5)
    reranker.reader.close()


@pytest.mark.slow
def test_precompute_with_an_embedding_model_beside_the_llm(weights: Path, tmp_path: Path, cats: list[str]) -> None:
    folder = save_embedder(tmp_path / "tiny")
    settings = (
        "router.mode=routed",
        f"router.embedder={folder}",
        f"router.bundle={embedder_router(tmp_path, folder)}",
    )
    named = [part for setting in settings for part in ("--set", setting)]
    file = write(tmp_path / "cats.jsonl", cats)
    told = [run(weights, *named, "index", file, "--precompute").stdout for _ in range(2)]
    assert "encoded 10 passages and vectors, 0 were there" in told[0]
    assert "encoded 0 passages and vectors, 10 were there" in told[1]
    status = answer(weights, "cache", "status")
    assert (status["passages"], status["vectors"]) == (5, 5)
    # One that no router weighs is made no vectors of.
    static = ("--set", f"router.embedder={folder}", "--set", "backbone.layout=late")
    assert "encoded 5 passages, 0 were there" in run(weights, *static, "index", file, "--precompute").stdout


@pytest.mark.slow
def test_precompute_stops_when_its_own_documents_would_have_to_go(weights: Path, tmp_path: Path) -> None:
    texts = [f"The cat number {number} sleeps on its own sofa all day." for number in range(40)]
    result = run(weights, "index", write(tmp_path / "many.jsonl", texts), "--precompute", disk_mb=3)
    assert isinstance(result.exception, BackboneError)
    assert "the document cache is full after" in str(result.exception)


@pytest.mark.parametrize(
    ("setting", "source", "disk_mb", "message"),
    [
        ("backbone.layout=late", "documents.jsonl", 0, "set cache.disk_mb"),
        ("backbone.layout=joint", "documents.jsonl", 50, "solo or late"),
        ("backbone.layout=late", "-", 50, "give a file"),
    ],
)
def test_precompute_refuses_what_cannot_work(
    tmp_path: Path, setting: str, source: str, disk_mb: int, message: str
) -> None:
    error = run(tmp_path, "--set", setting, "index", source, "--precompute", disk_mb=disk_mb).exception
    assert isinstance(error, SettingsError) and message in str(error)
    assert not list(tmp_path.iterdir())
