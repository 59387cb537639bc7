"""What workers are asked for: states where those are lacking, vectors where those are, and nothing twice."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from connector.backbone.caching.sqlite_store import PassageStore, store_path
from connector.embedding.embedder import Embedder
from connector.offline.encoding import Kept, keeping
from connector.offline.workers import told_of
from connector.reranking.reranker import Reranker
from connector.sections import Settings
from connector.settings import load_settings
from tests.embedding.tiny_model import save_embedder
from tests.routing.embedder_router import embedder_router

TEXTS = ["cats sleep hours a day", "bread bake flour", "cats bake bread", "trading shares"]


class Here:
    """Workers in this process: the protocol of ``Workers``, without a second LLM."""

    def __init__(self) -> None:
        self.items: list[Any] = []

    def map(self, work: Any, items: Iterable[Any], reader: Any = None) -> Iterator[Any]:
        for item in items:
            self.items.append(item)
            yield work(SimpleNamespace(reader=reader), item)


@pytest.fixture
def beside(settings: Settings, tmp_path: Path) -> Iterator[Reranker]:
    """With an embedding model beside the LLM; its documents' vectors count."""
    folder = save_embedder(tmp_path / "tiny")
    options = {
        "cache.path": settings.cache.path,
        "backbone.dtype": "float32",
        "backbone.runtime": "torch",
        "router.embedder": str(folder),
        "router.bundle": str(embedder_router(tmp_path / "own", folder)),
    }
    reranker = Reranker.from_settings(load_settings(os.devnull, options, {}))
    yield reranker
    reranker.reader.close()


def test_workers_make_what_is_lacking(
    beside: Reranker, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, pool = beside.reader, beside.routes.pool()
    cache = settings.cache.model_copy(update={"path": tmp_path, "disk_mb": 100})

    def kept(*batches: list[str], vectors: bool = True) -> tuple[list[Kept], list[Any]]:
        workers, own = Here(), pool if vectors else pool.__class__(groups=pool.groups, layers=pool.layers)
        return list(keeping(workers, reader, cache, own, batches)), workers.items

    # Before there was an embedding model: states alone.
    found, items = kept(TEXTS[:2], vectors=False)
    assert found == [Kept(2, 0, 2, 0)] and items == [(TEXTS[:2], [])]
    # Of these the vectors are lacking, of the others both; an empty text has neither.
    found, items = kept(TEXTS[:2], [*TEXTS[1:], ""])
    assert items[0] == ([], TEXTS[:2])
    assert found[0] == Kept(2, 2, 2, 0) and sum(own.encoded for own in found) == 6
    with closing(PassageStore(store_path(tmp_path), 100_000_000)) as store:
        assert all(store.has(key) for own in reader.keys(TEXTS, pool) for key in own)
        assert (store.status().passages, store.status().vectors) == (4, 4)
    # Nobody is asked for what is all there.
    monkeypatch.setattr(Embedder, "documents", lambda self, texts: pytest.fail("embedded again"))
    found, items = kept(TEXTS)
    assert found == [Kept(4, 8, 0, 0)] and not items


def test_workers_must_have_the_same_embedding_model(beside: Reranker, tmp_path: Path) -> None:
    reader = beside.reader
    own = told_of(reader)
    assert reader.embedder is not None
    other = Embedder.load(str(_with_another_tokenizer(tmp_path)))
    there: Any = SimpleNamespace(fingerprint=reader.fingerprint, runtime=reader.runtime, embedder=other)
    alone: Any = SimpleNamespace(fingerprint=reader.fingerprint, runtime=reader.runtime, embedder=None)
    assert len({own, told_of(there), told_of(alone)}) == 3


def _with_another_tokenizer(folder: Path) -> Path:
    path = save_embedder(folder / "other")
    (path / "tokenizer.json").write_text((path / "tokenizer.json").read_text() + "\n")
    return path
