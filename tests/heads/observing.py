"""A reading's arrays without an LLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from connector.heads.row_groups import ROW_GROUPS, RowGroup


def _nothing() -> npt.NDArray[np.float32]:
    return np.zeros((0, 0, 0), dtype=np.float32)


@dataclass(frozen=True)
class Arrays:
    """See ``Observed``.

    Attributes:
        rows: float32 [heads, groups, tokens], in the order of ``ROW_GROUPS``.
        lengths: int64 [passages].
        heads: (layer, head) of each row; default: of layer 0.
        layers, states, log_probabilities, similarities: see ``Observed``.
    """

    rows: npt.NDArray[np.float32]
    lengths: npt.NDArray[np.int64]
    heads: Sequence[tuple[int, int]] = ()
    layers: Sequence[int] = ()
    states: npt.NDArray[np.float32] = field(default_factory=_nothing)
    log_probabilities: npt.NDArray[np.float32] = field(default_factory=_nothing)
    similarities: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, dtype=np.float32))

    def group(self, name: RowGroup) -> npt.NDArray[np.float32]:
        return self.rows[:, ROW_GROUPS.index(name)]
