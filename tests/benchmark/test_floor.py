"""Operations of the encode, counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from connector.benchmark.floor import LayerShape, encode_operations, gemm_way
from connector.checkpoints.checkpoint import Checkpoint
from connector.checkpoints.shape import BackboneShape
from connector.errors import BackboneError
from connector.reranker import Reranker


def test_operations_of_a_small_layer() -> None:
    layer = LayerShape(hidden=4, queries=6, keys=2, inside=8)
    weights = 4 * 6 + 2 * 4 * 2 + 6 * 4 + 3 * 4 * 8
    # Two documents of 1 and 2 tokens after 3 of the prefix see 4, 4 and 5 tokens.
    products, attention = 2 * 3 * (5 * weights + 4 * 2), 5 * 2 * 2 * 6 * (4 + 4 + 5)
    assert encode_operations(layer, [1, 2], 3, 5) == products + attention


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
