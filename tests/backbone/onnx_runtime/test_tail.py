"""Who of a tail's tokens sees whom in ONNX Runtime: the same as in torch, and parts as in the whole."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from connector.backbone.onnx_runtime.tail import FixedLayer, FixedStates, OnnxTail
from connector.backbone.runtime import Tail
from connector.backbone.torch_runtime.tail import TailPlaces

LENGTHS = st.integers(0, 5)
WINDOWS = st.one_of(st.none(), st.integers(1, 12))


@st.composite
def tails(draw: st.DrawFn) -> tuple[Tail, int]:
    """A tail, and the tokens of the prefix."""
    shared, prefix, gap = draw(LENGTHS), draw(LENGTHS), draw(LENGTHS)
    variants = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    ids = iter(range(1_000))
    own = tuple(tuple(next(ids) for _ in range(length)) for length in variants)
    total = shared + sum(variants)
    rows = np.array(draw(st.lists(st.booleans(), min_size=total, max_size=total)), dtype=np.float32)[None]
    return Tail(tuple(900 + at for at in range(shared)), own, rows, prefix + gap), prefix


@given(tails(), WINDOWS)
def test_tokens_and_biases_are_torch_s(given_tail: tuple[Tail, int], window: int | None) -> None:
    tail, prefix = given_tail
    ours, theirs = OnnxTail(tail, prefix), TailPlaces(tail, prefix, torch.device("cpu"))
    assert (ours.ids, ours.positions.tolist()) == (theirs.ids, theirs.positions)
    for places, tokens in ((ours.fixed, theirs.fixed_tokens()), (ours.query, theirs.query_tokens())):
        ids, positions = ours.of(places)
        assert (ids, positions.tolist()) == tokens
    if window is None:
        # Where nothing is hidden, torch leaves out the columns of prefix and documents.
        whole = ours.bias(np.arange(len(ours.ids)), np.arange(0), window)
        assert np.array_equal(whole, theirs.bias(window, torch.arange(0)).numpy())
    else:
        documents = torch.arange(3, 9)
        before = np.concatenate((documents.numpy(), np.arange(prefix)))
        whole = ours.bias(np.arange(len(ours.ids)), before, window)
        assert np.array_equal(whole, theirs.bias(window, documents).numpy())
        assert np.array_equal(ours.bias(ours.counted, before, window), whole[ours.counted])
    assert np.array_equal(ours.fixed_bias(window), theirs.fixed_bias(window).numpy())
    assert np.array_equal(ours.query_bias(window), theirs.query_bias(window).numpy())


@given(tails())
def test_fixed_and_query_make_the_whole(given_tail: tuple[Tail, int]) -> None:
    ours = OnnxTail(*given_tail)
    states = np.array(ours.ids, dtype=np.float32)[None, :, None]
    assert np.array_equal(ours.whole(states[:, ours.fixed], states[:, ours.query]), states)
    assert ours.counted.tolist() == [at for at in range(len(ours.ids)) if given_tail[0].rows[0, at]]


def test_bytes_are_those_of_all_states() -> None:
    q, k = np.zeros((4, 3, 8), dtype=np.float32), np.zeros((2, 3, 8), dtype=np.float32)
    assert FixedStates((FixedLayer(q, k, k),) * 2).nbytes == 2 * 3 * 8 * (4 + 2 + 2) * 4
