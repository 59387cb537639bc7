"""Which of the shipped routers is taken, and what an embedding model beside the LLM changes."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connector.backbone.similarity import Similarity
from connector.documents import UsedSignal
from connector.embedding.embedder import KNOWN as RECIPES
from connector.embedding.embedder import Embedder
from connector.errors import BackboneError
from connector.explanation import explain
from connector.reranking.reranker import Reranker
from connector.routing.bundle import shipped_bundle
from connector.routing.shipped_files import shipped_router
from connector.sections import Settings
from connector.settings import load_settings
from tests.embedding.tiny_model import save_embedder
from tests.routing.embedder_router import KNOWN, embedder_router

QUERY = "hours cats sleep"
TEXTS = ["cats sleep hours a day", "bread bake flour", "cats bake bread", "trading shares"]


def settings_of(settings: Settings, **options: Any) -> Settings:
    named = {key.replace("__", "."): value for key, value in options.items()}
    kept = {"cache.path": settings.cache.path, "backbone.dtype": "float32", "backbone.runtime": "torch"}
    return load_settings(os.devnull, {**kept, **named}, environment={})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An embedding model that bears a known name, and is not it."""
    return save_embedder(tmp_path / KNOWN)


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ({}, "smollm2-135m.solo.onnx"),
        ({"router__embedder": "BGE-small-en-v1.5"}, f"smollm2-135m.{KNOWN}.solo.onnx"),
        ({"router__embedder": "all-MiniLM-L6-v2"}, "smollm2-135m.solo.onnx"),
        ({"router__embedder": "a/folder"}, "smollm2-135m.solo.onnx"),
        ({"router__embedder": KNOWN, "backbone__model": "gemma3-270m"}, "gemma3-270m.solo.onnx"),
        *(
            ({"router__embedder": KNOWN, "backbone__model": model}, f"{model}.{KNOWN}.solo.onnx")
            for model in ("qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b")
        ),
        ({"router__embedder": KNOWN, "backbone__layout": "late"}, None),
    ],
)
def test_which_is_taken(settings: Settings, options: dict[str, str], taken: str | None) -> None:
    found = shipped_router(settings_of(settings, **options))
    assert (found and found.name) == taken


def test_a_folder_is_known_by_its_graph(settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = settings_of(settings, router__embedder=str(folder))
    assert shipped_router(named) == shipped_bundle("smollm2-135m", "solo")
    own = replace(RECIPES[KNOWN], digest=Embedder.load(str(folder)).digest)
    monkeypatch.setitem(RECIPES, KNOWN, own)
    assert shipped_router(named) == shipped_bundle("smollm2-135m", "solo", KNOWN)


def test_a_router_that_weighs_another_one_is_refused(settings: Settings, folder: Path) -> None:
    told = rf"weighs similarities in the embedding model {KNOWN} \(828e1496d7fa\), and router.embedder is {KNOWN} \("
    shipped = str(shipped_bundle("smollm2-135m", "solo", KNOWN))
    with pytest.raises(BackboneError, match=rf"{told}.*\); set router.embedder to the one with that graph"):
        Reranker.from_settings(settings_of(settings, router__embedder=str(folder), router__bundle=shipped))


def test_it_counts_beside_the_llm(settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With another embedding model in its place, the shipped router scores by both, as its metadata say."""
    folder = save_embedder(tmp_path / "tiny")
    embedder = Embedder.load(str(folder))
    own = embedder_router(tmp_path / "own", folder)
    with caplog.at_level(logging.WARNING):
        reranker = Reranker.from_settings(
            settings_of(settings, router__embedder=str(folder), router__bundle=str(own))
        )
    assert not caplog.records
    result = reranker.rerank(QUERY, TEXTS)
    explained = explain(result)
    assert explained is not None
    workings, near = explained.workings, Similarity(embedder).cosines(QUERY, TEXTS)
    at = [str(used.signal) for used in result.gates if isinstance(used, UsedSignal)].index(f"similarity/{KNOWN}")
    gate, mean, scale = workings.gates[at], workings.means[at], workings.scales[at]
    assert gate > 0 and np.ptp(near) > 0.1
    for hit in explained.hits:
        similarity, probe = hit.signals[at], hit.signals[1 - at]
        assert similarity.value == pytest.approx(near[hit.index], abs=1e-6)
        assert similarity.counted == pytest.approx(gate * (near[hit.index] - mean) / scale, abs=1e-6)
        assert hit.head_score == pytest.approx(workings.bias + probe.counted + similarity.counted, abs=1e-6)
        # One document alone gets the same score.
        assert reranker.rerank(QUERY, [TEXTS[hit.index]]).hits[0].head_score == hit.head_score


def test_precomputed_documents_need_neither_model_again(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_embedder(tmp_path / "tiny")
    own = embedder_router(tmp_path / "own", folder)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "models").symlink_to(settings.cache.path / "models")
    kept = {"cache__path": tmp_path / "cache", "cache__disk_mb": 200}
    named = settings_of(settings, router__embedder=str(folder), router__bundle=str(own), **kept)
    first = Reranker.from_settings(named)
    reader, pool = first.reader, first.routes.pool()
    # Of each text the states of its passage, and its vector.
    assert [len(keys) for keys in reader.keys([*TEXTS, ""], pool)] == [2, 2, 2, 2, 0]
    assert reader.precompute(TEXTS[:2], pool) == (0, 4) and reader.precompute([*TEXTS, ""], pool) == (4, 4)
    keys = {key for own in reader.keys(TEXTS, pool) for key in own}
    assert {key for key, _ in (*reader.encoded(TEXTS, pool), *reader.embedded(TEXTS))} == keys
    expected = first.rerank(QUERY, TEXTS)
    reader.close()

    second = Reranker.from_settings(named)
    monkeypatch.setattr(Embedder, "documents", lambda self, texts: pytest.fail("a document was embedded again"))
    found = second.rerank(QUERY, TEXTS)
    assert [hit.head_score for hit in found.hits] == [hit.head_score for hit in expected.hits]
    assert second.reader.statistics().misses == 0 and second.reader.lookups()["vectors"] == (0, 4)
    second.reader.close()


@pytest.mark.parametrize(
    ("layout", "told"),
    [
        ("solo", "which the router smollm2-135m.solo.onnx does not weigh: it counts nothing; set router.bundle to"),
        ("late", "which counts nothing in the layout late; set backbone.layout to solo, or router.embedder to null"),
    ],
)
def test_an_embedding_model_that_counts_nothing_is_told(
    settings: Settings, layout: str, told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named = str(save_embedder(tmp_path / "tiny"))
    with caplog.at_level(logging.WARNING):
        Reranker.from_settings(settings_of(settings, router__embedder=named, backbone__layout=layout))
    (record,) = caplog.records
    assert record.message.startswith(f"router.embedder is {named}, ") and told in record.message
