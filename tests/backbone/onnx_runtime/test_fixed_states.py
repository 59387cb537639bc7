"""What is remembered of a tail without its query."""

from __future__ import annotations

import numpy as np

from connector.backbone.onnx_runtime.fixed_states import FixedLayer, FixedStates, whole_tail
from connector.backbone.prompt.tail import Tail


def test_bytes_are_those_of_all_states() -> None:
    q, k = np.zeros((4, 3, 8), dtype=np.float32), np.zeros((2, 3, 8), dtype=np.float32)
    assert FixedStates((FixedLayer(q, k, k),) * 2).nbytes == 2 * 3 * 8 * (4 + 2 + 2) * 4


def test_fixed_and_query_make_the_whole() -> None:
    tail = Tail.of([90, 91], [[1, 2, 3], [4]], np.ones((1, 6), dtype=np.float32), 5, 5)
    states = tail.ids.astype(np.float32)[None, :, None]
    np.testing.assert_array_equal(whole_tail(tail, states[:, tail.fixed], states[:, tail.query]), states)
