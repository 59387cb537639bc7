"""Routes: which heads are read for one query, by which read-out, and how much each counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from connector.heads.readouts import ReadOut
from connector.heads.scoring import document_scores

__all__ = ["Member", "Route", "route_scores"]

Member = tuple[int, int, ReadOut]
"""(layer, head, read-out): what a route gives a gate to."""


@dataclass(frozen=True, slots=True)
class Route:
    """The heads of one query.

    Attributes:
        members: (layer, head, read-out), best first, each once; at least one.
        gates: weight of each member, above 0.
        first_stage_gate: weight of the first stage's standardized scores beside the standardized head scores.
        scales: for each member, how far its scores of one window usually lie apart; they are divided by it.
            Empty: no division.
    """

    members: tuple[Member, ...]
    gates: tuple[float, ...]
    first_stage_gate: float
    scales: tuple[float, ...] = ()

    @property
    def heads(self) -> tuple[tuple[int, int], ...]:
        """The (layer, head) pairs to read, by layer, each once."""
        return tuple(sorted({(layer, head) for layer, head, _ in self.members}))

    @property
    def deepest_layer(self) -> int:
        """The last layer that has to be run."""
        return max(layer for layer, _, _ in self.members)

    @property
    def needs_whole_tail(self) -> bool:
        """Whether any read-out needs more rows than the query's own."""
        return any(readout != "query" for _, _, readout in self.members)


def route_scores(
    route: Route,
    tables: Mapping[ReadOut, npt.NDArray[np.float64]],
    heads: Sequence[tuple[int, int]],
    documents: Sequence[Sequence[int]],
) -> tuple[npt.NDArray[np.float64], list[int | None]]:
    """Gated mean of the members' scores, best passage of each document.

    Args:
        route: members and gates.
        tables: read-out -> float64 [heads, passages], for each read-out of the route.
        heads: the (layer, head) of each row.
        documents: for each document, its passages; none for an empty document.

    Returns:
        See ``document_scores``.
    """
    place = {head: at for at, head in enumerate(heads)}
    rows = np.stack([tables[readout][place[layer, head]] for layer, head, readout in route.members])
    # The mean of the rows is taken below: gates that sum up to their number keep its unit.
    gates = np.array(route.gates) * len(route.gates) / sum(route.gates)
    scales = np.array(route.scales) if route.scales else np.ones(len(gates))
    return document_scores(rows, documents, (scales / gates).tolist())
