"""Documents read alone in ONNX Runtime: torch's numbers, and each document's its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from connector.backbone.prompt.tail import solo_tail
from connector.backbone.runtime import Observations, ReadRequest
from connector.errors import BackboneError
from connector.heads.needs import Needs
from tests.backbone.onnx_runtime.test_runtime import TOLERANCE, Both, both, short
from tests.backbone.torch_runtime.test_runtime import DOCUMENTS, PREFIX
from tests.backbone.torch_runtime.test_solo import LAST, QUERY

__all__ = ["both", "short"]


def read(runtime: Any, numbers: list[int], needs: Needs, pool: Needs | None = None) -> Observations:
    documents = [DOCUMENTS[number] for number in numbers]
    encoded = list(runtime.encode(PREFIX, documents, pool or needs, layout="solo"))
    tail = solo_tail(LAST, QUERY, len(PREFIX), needs.groups)
    (found,) = runtime.read(PREFIX, [ReadRequest(tail, encoded, needs)], layout="solo")
    return found


def test_numbers_are_torch_s(both: Both) -> None:
    needs = Needs(both.torch.shape.all_heads(), ("query",), (0, 1))
    expected, found = (read(runtime, [0, 1, 2], needs) for runtime in (both.torch, both.onnx))
    np.testing.assert_allclose(found.states, expected.states, atol=TOLERANCE)
    np.testing.assert_allclose(found.rows, expected.rows, atol=TOLERANCE)


@pytest.mark.parametrize("layers", [(2, 1), (0,)])
def test_states_alone_and_of_any_pool(short: Both, layers: tuple[int, ...]) -> None:
    needs, pool = Needs(groups=(), layers=layers), Needs(((2, 1),), ("query",), (1,))
    whole = read(short.onnx, [0, 1, 2], needs, needs | pool)
    np.testing.assert_allclose(whole.states, read(short.torch, [0, 1, 2], needs).states, atol=TOLERANCE)
    for number in range(3):
        alone = read(short.onnx, [number], needs)
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
        read(short.onnx, [0], Needs(groups=(), likelihood=True))
    with pytest.raises(BackboneError, match="layer 3 is wanted, .* export again with .* --layers 4"):
        read(short.onnx, [0], Needs(groups=(), layers=(3,)))
