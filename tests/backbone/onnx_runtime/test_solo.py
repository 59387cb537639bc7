"""Documents read alone in ONNX Runtime: torch's numbers, and each document's its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from connector.backbone.onnx_runtime import runtime as module
from connector.backbone.onnx_runtime.graphs import OnnxGraphs
from connector.backbone.onnx_runtime.runtime import OnnxRuntime
from connector.backbone.prompt.tail import TokenIds, solo_tail
from connector.backbone.runtime import Observations, ReadRequest
from connector.errors import BackboneError
from connector.heads.needs import Needs
from connector.sections import Layout
from tests.backbone.onnx_runtime.test_runtime import TOLERANCE, Both, both, short
from tests.backbone.reading import token_ids
from tests.backbone.torch_runtime.test_runtime import DOCUMENTS, PREFIX
from tests.backbone.torch_runtime.test_solo import LAST, QUERY

__all__ = ["both", "short"]


def read(runtime: Any, documents: Sequence[TokenIds], needs: Needs, pool: Needs | None = None) -> Observations:
    encoded = list(runtime.encode(PREFIX, documents, pool or needs, layout="solo"))
    tail = solo_tail(LAST, QUERY, len(PREFIX), needs.groups)
    (found,) = runtime.read(PREFIX, [ReadRequest(tail, encoded, needs)], layout="solo")
    return found


def test_numbers_are_torch_s(both: Both) -> None:
    needs = Needs(both.torch.shape.all_heads(), ("query",), (0, 1))
    expected, found = (read(runtime, DOCUMENTS, needs) for runtime in (both.torch, both.onnx))
    np.testing.assert_allclose(found.states, expected.states, atol=TOLERANCE)
    np.testing.assert_allclose(found.rows, expected.rows, atol=TOLERANCE)


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_what_stands_beside_a_document_changes_no_bit(
    short: Both, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Libraries divide what there is to do among threads, and may then sum in another order.
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    runtime = OnnxRuntime.load(short.exported, cache_dtype="float32")
    documents = token_ids(*([3 + (at * step) % 110 for at in range(5 + 37 * step)] for step in range(1, 14)))
    needs = Needs(((2, 1), (1, 3)), ("query",), (0, 2))

    def found(numbers: Sequence[int]) -> tuple[list[Any], Any]:
        chosen = [documents[number] for number in numbers]
        observed = read(runtime, chosen, needs)
        ends = np.cumsum([len(document) for document in chosen])
        return np.split(observed.rows, ends[:-1], axis=2), observed.states.swapaxes(0, 1)

    rows, states = found(range(13))
    assert not np.array_equal(states[0], states[1])
    assert runtime.plan["batches"] == "documents by themselves"
    for numbers in ([5], [12, 0], [3, 4, 6, 7, 8, 9, 10, 11], list(reversed(range(13)))):
        own_rows, own_states = found(numbers)
        np.testing.assert_array_equal(own_states, states[numbers])
        for number, own in zip(numbers, own_rows, strict=True):
            np.testing.assert_array_equal(own, rows[number])


def test_cores_change_no_bit(short: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = token_ids(*([3 + (at * step) % 110 for at in range(9 * step)] for step in range(1, 14)))
    needs, found = Needs(((2, 1),), ("query",), (0, 2)), []
    layouts: tuple[Layout, ...] = ("solo", "solo", "joint")
    for cores, layout in zip((1, 3, 3), layouts, strict=True):
        monkeypatch.setenv("OMP_NUM_THREADS", str(cores))
        # The prefix is read by the graphs that are loaded first.
        runtime = OnnxRuntime.load(short.exported, cache_dtype="float32", layout=layout)
        assert runtime.threads == cores
        found.append(read(runtime, documents, needs))
    for again in found[1:]:
        for one, other in zip(found[0].arrays, again.arrays, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("layout", ["joint", "late"])
def test_graphs_for_other_layouts_are_loaded_when_they_are_asked_for(
    short: Both, layout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    loaded: list[int] = []

    class Counted(OnnxGraphs):
        def __init__(self, folder: Any, exported: Any, threads: int, device: str = "cpu") -> None:
            loaded.append(threads)
            super().__init__(folder, exported, threads, device)

    monkeypatch.setattr(module, "OnnxGraphs", Counted)
    runtime = OnnxRuntime.load(short.exported, cache_dtype="float32")
    read(runtime, DOCUMENTS, Needs(groups=(), layers=(2,)))
    assert loaded == [1]
    list(runtime.encode(PREFIX, DOCUMENTS, Needs(((1, 0),)), layout=layout))
    list(runtime.encode(PREFIX, DOCUMENTS, Needs(((1, 0),)), layout=layout))
    assert loaded == [1, 2]
    # Whoever says so has these alone.
    OnnxRuntime.load(short.exported, layout=layout)
    assert loaded == [1, 2, 2]


@pytest.mark.parametrize("layers", [(2, 1), (0,)])
def test_states_alone_and_of_any_pool(short: Both, layers: tuple[int, ...]) -> None:
    needs, pool = Needs(groups=(), layers=layers), Needs(((2, 1),), ("query",), (1,))
    whole = read(short.onnx, DOCUMENTS, needs, needs | pool)
    np.testing.assert_allclose(whole.states, read(short.torch, DOCUMENTS, needs).states, atol=TOLERANCE)
    for number in range(3):
        alone = read(short.onnx, [DOCUMENTS[number]], needs)
        np.testing.assert_array_equal(alone.states[:, 0], whole.states[:, number])
        assert alone.rows.shape[0] == 0 and alone.log_probabilities.size == 0


def test_states_that_enter_a_layer_need_nothing_of_it(short: Both) -> None:
    encoded = next(short.onnx.encode(PREFIX, DOCUMENTS, Needs(groups=(), layers=(2,)), layout="solo"))
    assert [layer for layer, _ in encoded.kept] == [0, 1]
    assert encoded.values is not None and encoded.values.data.shape == encoded.keys.data.shape
    again = short.onnx.load_document(encoded.to_bytes())
    needs = Needs(groups=(), layers=(2,))
    tail = solo_tail(LAST, QUERY, len(PREFIX), ())
    rows = [short.onnx.read(PREFIX, [ReadRequest(tail, [own], needs)], layout="solo")[0] for own in (encoded, again)]
    np.testing.assert_array_equal(rows[0].states, rows[1].states)


def test_what_an_export_does_not_hold(short: Both) -> None:
    with pytest.raises(BackboneError, match="no LM head, and gives no likelihood"):
        read(short.onnx, DOCUMENTS[:1], Needs(groups=(), likelihood=True))
    with pytest.raises(BackboneError, match="layer 3 is wanted, .* export again with .* --layers 4"):
        read(short.onnx, DOCUMENTS[:1], Needs(groups=(), layers=(3,)))
