"""What is remembered of a tail without its query."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from connector.backbone.prompt.tail import Tail
from connector.backbone.torch_runtime.fixed_states import FixedStates, whole_tail


def test_bytes_are_those_of_all_states() -> None:
    states = FixedStates({0: torch.zeros(4, 3, 8)}, {0: torch.zeros(2, 3, 8)}, {0: torch.zeros(2, 3, 8)})
    assert states.nbytes == pytest.approx(4 * 3 * 8 * (4 + 2 + 2))


def test_fixed_and_query_make_the_whole() -> None:
    tail = Tail.of([90, 91], [[1, 2, 3], [4]], np.ones((1, 6), dtype=np.float32), 5, 5)
    states = torch.from_numpy(tail.ids.astype(np.float32))[None, :, None]
    assert torch.equal(whole_tail(tail, states[:, tail.fixed], states[:, tail.query]), states)
