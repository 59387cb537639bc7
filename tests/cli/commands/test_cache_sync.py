"""``rh-connector cache sync``: the cache on disk follows real indexes, and no search gets states of an older text."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from connector.backbone.caching.sqlite_store import PassageStore, store_path
from connector.checkpoints.checkpoint import Checkpoint
from connector.cli import cli
from connector.cli.sync import Synced, sync
from connector.documents import Document
from connector.engines.cluster.cluster_engine import ClusterEngine
from connector.engines.open_engine import open_engine
from connector.errors import BackboneError, MissingIndexError, SettingsError
from connector.reranking.reranker import Reranker
from connector.sections import Settings
from connector.settings import load_settings
from tests.embedding.tiny_model import save_embedder
from tests.nodes.process import Node
from tests.routing.embedder_router import embedder_router

MB = 1_000_000
PROGRAM = [sys.executable, "-c", "from connector.cli import main; main()"]
QUERY = "How long do cats sleep?"
OPTIONS = {"backbone.dtype": "float32", "backbone.runtime": "torch", "router.mode": "static", "cache.disk_mb": 300}


def with_weights(folder: Path, settings: Settings) -> Path:
    """A cache folder with the weights, and nothing else."""
    folder.mkdir()
    for part in settings.cache.path.iterdir():
        if part.name not in ("documents", "indexes", "progress"):
            (folder / part.name).symlink_to(part)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, settings: Settings, smollm2: Checkpoint) -> Path:
    return with_weights(tmp_path_factory.mktemp("sync") / "cache", settings)


@pytest.fixture(scope="module")
def own(folder: Path) -> Iterator[Reranker]:
    """The session's reranker with a cache on disk: what a service has beside the sync."""
    reranker = Reranker.from_settings(load_settings(os.devnull, {**OPTIONS, "cache.path": str(folder)}, {}))
    yield reranker
    reranker.reader.close()


class Index:
    """An index of three shards on a real node, and the syncs of one cache with it."""

    def __init__(self, node: Node, kind: str, folder: Path, reranker: Reranker) -> None:
        self.name = f"s-{uuid.uuid4().hex[:10]}"
        where = {"engine.kind": kind, "engine.url": node.url, "engine.index": self.name, "cache.path": str(folder)}
        self.options: dict[str, Any] = {**OPTIONS, **where}
        self.settings = load_settings(os.devnull, self.options, {})
        engine = open_engine(self.settings)
        assert isinstance(engine, ClusterEngine)
        self.engine, self.reranker = engine, reranker
        self.make()

    def make(self) -> None:
        properties = {"written": {"type": "date"}, "text": {"type": "text"}}
        self.engine.request(
            "PUT",
            "",
            {"settings": {"number_of_shards": 3, "number_of_replicas": 0}, "mappings": {"properties": properties}},
        )

    def put(self, **texts: str) -> None:
        self.engine.index([Document(name, {"text": text}) for name, text in texts.items()])

    def put_at(self, date: str, **texts: str) -> None:
        self.engine.index([Document(name, {"text": text, "written": date}) for name, text in texts.items()])

    def delete(self, name: str) -> None:
        self.engine.request("DELETE", f"/_doc/{name}", None, {"refresh": "true"})

    def sync(self, field: str | None = None) -> tuple[int, ...]:
        """Documents, added, changed, deleted, encoded, dropped."""
        done = sync(self.reranker, self.settings, self.engine, field)
        return counts(done)

    def held(self, *texts: str) -> list[bool]:
        """Whether the passages of texts are on disk."""
        keys = self.reranker.reader.keys(texts, self.reranker.routes.pool())
        with closing(PassageStore(store_path(self.settings.cache.path), 300 * MB)) as store:
            return [all(map(store.has, passages)) for passages in keys]


def counts(done: Synced) -> tuple[int, ...]:
    return (done.documents, done.added, done.changed, done.deleted, done.encoded, done.dropped)


@pytest.fixture(params=["opensearch_node", "elasticsearch_node"])
def index(request: pytest.FixtureRequest, folder: Path, own: Reranker) -> Iterator[Index]:
    node, kind = request.getfixturevalue(request.param), request.param.removesuffix("_node")
    made = Index(node, kind, folder, own)
    yield made
    made.engine.request("DELETE", "")
    made.engine.close()


@pytest.fixture
def on_opensearch(opensearch_node: Node, folder: Path, own: Reranker) -> Iterator[Index]:
    made = Index(opensearch_node, "opensearch", folder, own)
    yield made
    made.engine.close()


def fresh_scores(reranker: Reranker, documents: list[Any]) -> dict[int, float]:
    """Of a reranker that has nothing in any cache."""
    reranker.reader.clear_cache()
    return {hit.index: hit.score for hit in reranker.rerank(QUERY, documents).hits}


@pytest.mark.slow
def test_the_cache_follows(index: Index, reranker: Reranker) -> None:
    mine = index.name
    old, new = f"A cat of {mine} sleeps sixteen hours.", f"A cat of {mine} never sleeps at all."
    gone, kept, both = f"Bread of {mine} needs salt.", f"A dog of {mine} barks.", f"Twins of {mine} are alike."
    index.put(a=old, b=gone, c=kept, d=both, e=both, f="")
    assert index.sync() == (6, 6, 0, 0, 4, 0)
    assert index.held(old, gone, kept, both) == [True] * 4
    assert index.sync() == (6, 0, 0, 0, 0, 0)

    # One is changed, two are deleted (one of them shares its text), one is added, one is written as it was.
    index.put(a=new, c=kept, g=f"Fish of {mine} swim.")
    index.delete("b")
    index.delete("d")
    # No search waits for the sync, or gets what was encoded of the old text.
    hits = index.engine.search(f"cat {mine} twins dog", 10)
    result = index.reranker.rerank(QUERY, hits)
    assert {hit.fields["text"] for hit in hits} >= {new, kept, both} and result.encoded >= 1
    assert {hit.index: hit.score for hit in result.hits} == fresh_scores(reranker, hits)

    assert index.sync()[:4] == (5, 1, 1, 2)
    assert index.held(old, new, gone, kept, both, f"Fish of {mine} swim.") == [False, True, False, True, True, True]
    # From the disk alone: what the sync encoded is what a search would have.
    index.reranker.reader.clear_cache()
    hits = index.engine.search(f"cat {mine} fish twins dog", 10)
    result = index.reranker.rerank(QUERY, hits)
    assert (len(hits), result.encoded) == (4, 0)
    assert {hit.index: hit.score for hit in result.hits} == fresh_scores(reranker, hits)
    # A text that comes back is encoded again.
    index.put(a=old)
    assert index.sync() == (5, 0, 1, 0, 1, 1)
    assert index.held(old, new) == [True, False]


@pytest.mark.slow
def test_vectors_of_an_embedding_model_follow_too(on_opensearch: Index, tmp_path: Path) -> None:
    index, folder = on_opensearch, save_embedder(tmp_path / "tiny")
    bundle = embedder_router(tmp_path / "own", folder)
    beside = {"router.mode": "routed", "router.embedder": str(folder), "router.bundle": str(bundle)}
    index.settings = load_settings(os.devnull, {**index.options, **beside}, {})
    index.reranker = Reranker.from_settings(index.settings)
    reader, pool = index.reranker.reader, index.reranker.routes.pool()
    old, new, kept = (f"Text {number} of {index.name}: cats sleep." for number in range(3))
    index.put(a=old, b=kept)
    assert index.sync() == (2, 2, 0, 0, 4, 0) and index.held(old, kept) == [True, True]
    assert [len(keys) for keys in reader.keys([old, kept], pool)] == [2, 2]
    index.put(a=new)
    index.delete("b")
    # Of each document states and vector.
    assert index.sync() == (1, 0, 1, 1, 2, 4) and index.held(old, new, kept) == [False, True, False]
    reader.clear_cache()
    assert index.reranker.rerank(QUERY, [new]).encoded == 0 and reader.lookups()["vectors"] == (0, 1)
    reader.close()


@pytest.mark.slow
def test_an_index_that_was_made_anew(index: Index) -> None:
    texts = [f"Text {number} of {index.name}." for number in range(3)]
    index.put(a=texts[0], b=texts[1])
    assert index.sync() == (2, 2, 0, 0, 2, 0)
    index.engine.request("DELETE", "")
    with pytest.raises(MissingIndexError):
        index.sync()
    assert index.held(*texts[:2]) == [True, True]
    index.make()
    # The same ids with the same sequence numbers as before.
    index.put(a=texts[0], b=texts[2])
    assert index.sync() == (2, 0, 1, 0, 1, 1)
    assert index.held(*texts) == [True, False, True]


@pytest.mark.slow
def test_an_alias_that_moves_costs_nothing(on_opensearch: Index, opensearch_node: Node, folder: Path) -> None:
    first, second = on_opensearch, Index(opensearch_node, "opensearch", folder, on_opensearch.reranker)
    texts = {"a": f"One of {first.name}.", "b": f"Two of {first.name}."}
    first.put(**texts)
    second.put(**texts)
    alias = f"alias-{first.name}"
    request = first.engine.connection.request
    request("POST", "/_aliases", {"actions": [{"add": {"index": first.name, "alias": alias}}]})
    settings = load_settings(os.devnull, {**first.options, "engine.index": alias}, {})
    with closing(open_engine(settings)) as engine:
        assert counts(sync(first.reranker, settings, engine)) == (2, 2, 0, 0, 2, 0)
        moved = [{"remove": {"index": first.name, "alias": alias}}, {"add": {"index": second.name, "alias": alias}}]
        request("POST", "/_aliases", {"actions": moved})
        assert counts(sync(first.reranker, settings, engine)) == (2, 2, 0, 2, 0, 0)
    assert first.held(*texts.values()) == [True, True]
    second.engine.close()


@pytest.mark.slow
def test_by_dates(index: Index) -> None:
    mine = index.name
    index.put_at("2024-01-01", a=f"One of {mine}.", b=f"Two of {mine}.")
    assert index.sync("written") == (2, 2, 0, 0, 2, 0)
    index.put_at("2024-02-01", a=f"One of {mine}, again.")
    assert index.sync("written") == (2, 0, 1, 0, 1, 1)
    # Changed without a new date: seen by its sequence number only.
    index.put_at("2024-01-01", b=f"Two of {mine}, again.")
    assert index.sync("written") == (2, 0, 0, 0, 0, 0)
    assert index.sync() == (2, 0, 1, 0, 1, 1)
    # Other numbers than expected: one without a date, and then one that was deleted.
    index.put(c=f"Three of {mine}.")
    assert index.sync("written") == (3, 1, 0, 0, 1, 0)
    index.delete("c")
    assert index.sync("written") == (2, 0, 0, 1, 0, 1)
    # A date in the future hides nothing that comes after it.
    index.put_at("2199-01-01", d=f"Four of {mine}.")
    assert index.sync("written") == (3, 1, 0, 0, 1, 0)
    today = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    index.put_at(today, a=f"One of {mine}, today.")
    assert index.sync("written") == (3, 0, 1, 0, 1, 1)
    with pytest.raises(SettingsError, match="--by text: its type is text"):
        index.sync("text")


@pytest.mark.slow
def test_what_the_disk_lost_is_encoded_again(on_opensearch: Index) -> None:
    texts = [f"Text {number} of {on_opensearch.name}." for number in range(4)]
    on_opensearch.put(**{f"n{at}": text for at, text in enumerate(texts)})
    on_opensearch.sync()
    keys = on_opensearch.reranker.reader.keys(texts, on_opensearch.reranker.routes.pool())
    with closing(PassageStore(store_path(on_opensearch.settings.cache.path), 300 * MB)) as store:
        store.drop(keys[2][0])
    assert on_opensearch.sync() == (4, 0, 0, 0, 1, 0)
    assert on_opensearch.held(*texts) == [True] * 4


def command(index: Index, *words: Any, **more: Any) -> list[str]:
    options = {**index.options, **more}
    given = [word for key, value in options.items() for word in ("--set", f"{key}={value}")]
    return ["--config", os.devnull, *given, "--json", *map(str, words)]


def documents_in(path: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return int(db.execute("SELECT count(*) FROM followed_documents").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


@pytest.mark.slow
def test_a_killed_sync_goes_on(on_opensearch: Index, settings: Settings, tmp_path: Path) -> None:
    total = 48
    words = " and then another cat sleeps on the sofa" * 8
    on_opensearch.put(**{f"n{number}": f"Number {number}{words}" for number in range(total)})
    folder = with_weights(tmp_path / "cache", settings)
    path = store_path(folder)
    arguments = command(on_opensearch, "cache", "sync", **{"cache.path": folder, "cache.disk_mb": 2000})
    killed = subprocess.Popen([*PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while documents_in(path) < 16 and killed.poll() is None:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    output, _ = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, output
    with closing(PassageStore(path, 2000 * MB)) as store:
        kept = store.entries()
    known = documents_in(path)
    assert 0 < kept < total and 16 <= known < total and kept <= known
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    found = json.loads(done.stdout)
    assert (found["documents"], found["added"], found["encoded"]) == (total, total - known, total - kept)
    assert (found["index"], found["dropped"]) == (on_opensearch.name, 0)


@pytest.mark.slow
def test_it_goes_on_until_it_is_stopped(on_opensearch: Index, settings: Settings, tmp_path: Path) -> None:
    on_opensearch.put(a="One cat.", b="Two cats.")
    arguments = command(
        on_opensearch, "cache", "sync", "--every", 1, **{"cache.path": with_weights(tmp_path / "cache", settings)}
    )
    with subprocess.Popen(
        [*PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whatever a shell starts in the background ignores it, and so would what is started here.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        told = iter(process.stdout)

        def until(**wanted: int) -> None:
            found = {}
            while not wanted.items() <= found.items():
                found = json.loads(next(told))

        until(documents=2, encoded=2)
        on_opensearch.put(a="Three cats.")
        until(documents=2, changed=1, dropped=1)
        # A cluster that fails for a time ends nothing.
        on_opensearch.engine.request("DELETE", "")
        while "there is no index" not in (said := process.stderr.readline()):
            assert said
        on_opensearch.make()
        on_opensearch.put(b="Two cats.")
        until(documents=1)
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 130


@pytest.mark.slow
def test_a_cache_that_is_too_small(on_opensearch: Index, settings: Settings, tmp_path: Path) -> None:
    on_opensearch.put(**{f"n{number}": f"The cat number {number} sleeps on its own sofa." for number in range(40)})
    folder = with_weights(tmp_path / "cache", settings)
    done = CliRunner().invoke(
        cli, command(on_opensearch, "cache", "sync", **{"cache.path": folder, "cache.disk_mb": 3})
    )
    assert isinstance(done.exception, BackboneError), (done.output, done.exception)
    assert "raise cache.disk_mb = 3" in str(done.exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache.disk_mb": 0, "engine.kind": "opensearch"}, "set cache.disk_mb"),
        ({"cache.disk_mb": 9, "engine.kind": "opensearch", "backbone.layout": "joint"}, "solo or late"),
        ({"cache.disk_mb": 9, "engine.kind": "embedded"}, "--precompute"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    given = [word for key, value in options.items() for word in ("--set", f"{key}={value}")]
    words = ["--config", os.devnull, "--set", f"cache.path={tmp_path}", *given, "cache", "sync"]
    error = CliRunner().invoke(cli, words).exception
    assert isinstance(error, SettingsError) and message in str(error)
    assert not list(tmp_path.iterdir())
