"""Operations of the encode, counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from connector.benchmark import backbones
from connector.benchmark.backbones import SharedBackbone, stand_in_heads
from connector.benchmark.floor import gemm_way
from connector.benchmark.operations import LayerShape, encode_operations, read_operations, window_operations
from connector.checkpoints.checkpoint import Checkpoint
from connector.checkpoints.shape import BackboneShape
from connector.errors import BackboneError
from connector.heads.needs import Needs
from connector.reranking.reranker import Reranker
from connector.sections import LAYOUTS, Settings
from tests.embedding.tiny_model import save_embedder
from tests.routing.embedder_router import embedder_router


def test_operations_of_a_small_layer() -> None:
    layer = LayerShape(hidden=4, queries=6, keys=2, inside=8)
    weights = 4 * 6 + 2 * 4 * 2 + 6 * 4 + 3 * 4 * 8
    # Two documents of 1 and 2 tokens after 3 of the prefix see 4, 4 and 5 tokens.
    products, attention = 2 * 3 * (5 * weights + 4 * 2), 5 * 2 * 2 * 6 * (4 + 4 + 5)
    assert encode_operations(layer, [1, 2], 3, 5) == products + attention


def test_operations_of_a_query() -> None:
    layer = LayerShape(hidden=4, queries=6, keys=2, inside=8)
    weights = 4 * 6 + 2 * 4 * 2 + 6 * 4 + 3 * 4 * 8
    assert read_operations(layer, tokens=3, seen=20, layers=2) == 2 * (2 * 3 * weights + 2 * 2 * 6 * 20)


@pytest.mark.slow
def test_operations_of_a_window_with_the_real_model(settings: Settings, smollm2: Checkpoint) -> None:
    backbone = SharedBackbone.open(settings)
    documents = ["a text of some words", "another"]
    # A likelihood has no head, and needs all layers.
    likely, cut = (
        window_operations(backbone, needs, "solo", "what is it", documents)
        for needs in (Needs(likelihood=True), Needs(layers=(15,)))
    )
    for part in ("encode", "read"):
        assert 0 < cut[part] < likely[part]
        assert likely[part] / cut[part] == pytest.approx(30 / 15, rel=0.1)
    found = {
        layout: window_operations(backbone, Needs(((15, 0),)), layout, "what is it", documents)
        for layout in ("solo", "late")
    }
    assert found["solo"]["encode"] == found["late"]["encode"]
    assert found["late"]["read"] < found["solo"]["read"]


def test_stand_in_heads_are_spread_over_the_first_layers() -> None:
    heads = stand_in_heads(BackboneShape("qwen2", 28, 12, 2, 128, 1536, 32_768)).heads
    assert len(heads) == 16 and heads[0][0] == 0 and heads[-1][0] == 18
    assert all(head < 12 for _, head in heads)
    # Fewer layers than heads are wanted: one a layer.
    assert stand_in_heads(BackboneShape("qwen2", 4, 2, 2, 8, 16, 64)).heads == ((0, 0), (1, 1), (2, 0))


@pytest.mark.slow
def test_layouts_without_heads_are_read_with_stand_ins(
    settings: Settings, smollm2: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = SharedBackbone.open(settings)
    assert not any(backbone.stands_in(layout) for layout in ("solo", "late"))
    for name in ("shipped_heads", "shipped_router"):
        monkeypatch.setattr(backbones, name, lambda settings, layout=None: None)
    assert [layout for layout in LAYOUTS if backbone.stands_in(layout)] == ["late"]
    found = backbone.reranker("late").rerank("red", ["a red fox", "a blue sea"])
    assert found.reranked and found.deepest_layer == 20


@pytest.mark.slow
def test_an_embedding_model_beside_the_llm_is_timed_too(
    settings: Settings, smollm2: Checkpoint, tmp_path: Path
) -> None:
    tiny = save_embedder(tmp_path / "tiny")
    router = {"embedder": str(tiny), "bundle": embedder_router(tmp_path / "own", tiny)}
    backbone = SharedBackbone.open(settings.model_copy(update={"router": settings.router.model_copy(update=router)}))
    assert "embed" in backbone.reranker("solo").rerank("cats", ["cats sleep", "bread"]).timings_ms
    assert "embed" not in backbone.reranker("late").rerank("cats", ["cats sleep", "bread"]).timings_ms


def test_the_real_model_and_its_products(reranker: Reranker, smollm2: Checkpoint) -> None:
    layer = LayerShape.of(reranker.reader.runtime.shape, smollm2.path)
    assert layer == LayerShape(576, 576, 192, 1536)
    for packed in (False, True):
        run, operations = gemm_way(layer, 16, "float32", packed=packed)
        assert run() > 0
        assert operations == 2 * 16 * 8 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536)


def test_a_number_format_without_a_layout() -> None:
    with pytest.raises(BackboneError, match="float64 weights cannot be laid out"):
        gemm_way(LayerShape(4, 4, 4, 4), 2, "float64", packed=True)


def test_a_checkpoint_that_does_not_say(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 4}))
    with pytest.raises(BackboneError, match="has no intermediate_size"):
        LayerShape.of(BackboneShape("llama", 1, 1, 1, 4, 4, 64), tmp_path)
