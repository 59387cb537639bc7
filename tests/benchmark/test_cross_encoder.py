"""The peer: pairs, and the same scores in torch and in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from connector.benchmark.cross_encoder import INPUTS, _exported, best_batch, make_peers, pair_batches


def test_pairs_are_sorted_padded_and_marked() -> None:
    first, second = pair_batches([7, 8], [range(5), range(2), range(3)], 2)
    assert first["input_ids"].shape == (2, 8) and second["input_ids"].shape == (1, 10)
    assert first["input_ids"][0].tolist() == [101, 1007, 1008, 102, 1000, 1001, 102, 0]
    assert first["attention_mask"][0].tolist() == [1] * 7 + [0]
    assert first["token_type_ids"][0].tolist() == [0] * 4 + [1] * 3 + [0]
    (long,) = pair_batches(range(9), [range(9000)], 1)
    assert long["input_ids"].shape == (1, 512) and long["input_ids"].max() < 30_522


@pytest.mark.slow
def test_peers_score_alike_whatever_the_batch() -> None:
    peers = {peer.name: peer for peer in make_peers(1)}
    assert list(peers) == ["torch", "onnx", "onnx_int8"]
    query, documents = range(6), [range(at, at + 5 + at) for at in range(7)]
    expected = peers["torch"].score(query, documents, 7)
    assert np.ptp(expected) > 1e-3
    for batch in (1, 3, 7):
        np.testing.assert_allclose(peers["onnx"].score(query, documents, batch), expected, atol=1e-4)
    np.testing.assert_allclose(peers["onnx_int8"].score(query, documents, 7), expected, atol=0.05)
    assert best_batch(peers["onnx"], query, documents) in (1, 2, 4, 5, 7)


@pytest.mark.slow
def test_the_graphs_for_a_gpu_score_alike_here(tmp_path: Path) -> None:
    """The CPU runs float16 graphs too, slowly: that they are right needs no GPU."""
    batch = pair_batches(range(9), [range(20), range(7)], 2)[0]
    found = {}
    for name, path in _exported(tmp_path, "cuda").items():
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        assert [given.name for given in session.get_inputs()] == list(INPUTS)
        found[name] = session.run(None, dict(batch))[0][:, 0].astype(np.float32)
    assert list(found) == ["onnx", "onnx_float16"]
    np.testing.assert_allclose(found["onnx"], make_peers(1)[0].logits(batch), atol=1e-4)
    np.testing.assert_allclose(found["onnx_float16"], found["onnx"], atol=5e-3)
    assert np.abs(found["onnx_float16"] - found["onnx"]).max() > 0
