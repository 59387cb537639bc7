"""Routes: which signals count for one query, and how much each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from connector.heads.row_groups import QUERY_GROUPS, ROW_GROUPS, RowGroup
from connector.heads.scoring import document_scores
from connector.heads.signals import Signal

__all__ = ["Route", "route_scores"]


@dataclass(frozen=True, slots=True)
class Route:
    """The signals of one query.

    Attributes:
        signals: best first, each once; at least one.
        gates: weight of each signal, above 0.
        first_stage_gate: weight of the first stage's standardized scores beside the standardized head scores.
        scales: for each signal, how far its scores of one query's documents usually lie apart; they are divided by
            it. Empty: no division.
    """

    signals: tuple[Signal, ...]
    gates: tuple[float, ...]
    first_stage_gate: float
    scales: tuple[float, ...] = ()

    @property
    def heads(self) -> tuple[tuple[int, int], ...]:
        """The (layer, head) pairs to read, by layer, each once."""
        return tuple(sorted({head for signal in self.signals for head in signal.heads}))

    @property
    def deepest_layer(self) -> int:
        """The last layer that has to be run."""
        return max(signal.deepest_layer for signal in self.signals)

    @property
    def groups(self) -> tuple[RowGroup, ...]:
        """The row groups to read: the query's own rows always, which also show where the heads looked."""
        needed = {name for signal in self.signals for name in signal.groups}
        return QUERY_GROUPS if needed <= set(QUERY_GROUPS) else ROW_GROUPS


def route_scores(
    route: Route, scores: npt.NDArray[np.float64], documents: Sequence[Sequence[int]]
) -> tuple[npt.NDArray[np.float64], list[int | None]]:
    """Gated mean of the signals, best passage of each document.

    Args:
        route: signals and gates.
        scores: float64 [signals, passages]: see ``signal_scores``.
        documents: for each document, its passages; none for an empty document.

    Returns:
        See ``document_scores``.
    """
    # The mean of the rows is taken below: gates that sum up to their number keep its unit.
    gates = np.array(route.gates) * len(route.gates) / sum(route.gates)
    scales = np.array(route.scales) if route.scales else np.ones(len(gates))
    return document_scores(scores, documents, (scales / gates).tolist())
