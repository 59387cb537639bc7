"""Routes: which signals count for one query, and how much each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_

import numpy as np
import numpy.typing as npt

from connector.heads.needs import Head, Needs
from connector.heads.row_groups import QUERY_GROUPS, ROW_GROUPS
from connector.heads.scoring import document_scores
from connector.heads.signals import Signal

__all__ = ["Absolute", "Route", "route_scores"]


@dataclass(frozen=True, slots=True)
class Absolute:
    """The head score of a document as the logarithm of the odds that it is relevant.

    ``bias + sum of gate * (signal - mean) / scale``, all of them found in training: it depends on no other document.

    Attributes:
        means: of each signal, over the queries and documents of training.
        bias: fitted on judged queries, with the gates' unit (logistic regression).
        spread: how far the head scores of one query's documents usually lie apart: the unit of the first stage's
            gate, whose own scores are standardized over the window.
    """

    means: tuple[float, ...]
    bias: float
    spread: float


@dataclass(frozen=True, slots=True)
class Route:
    """The signals of one query.

    Attributes:
        signals: best first, each once; at least one.
        gates: weight of each signal, above 0.
        first_stage_gate: weight of the first stage's standardized scores beside the standardized head scores.
        scales: for each signal, how far its scores of one query's documents usually lie apart; they are divided by
            it. Empty: no division.
        absolute: what makes the head score a number that means the same for every query; None: it is standardized
            over the documents that came with it.
        shown: heads whose attention says where in a document the answer stands; they count nothing.
    """

    signals: tuple[Signal, ...]
    gates: tuple[float, ...]
    first_stage_gate: float
    scales: tuple[float, ...] = ()
    absolute: Absolute | None = None
    shown: tuple[Head, ...] = ()

    @property
    def heads(self) -> tuple[Head, ...]:
        """The (layer, head) pairs to read, by layer, each once."""
        return self.needs.heads

    @property
    def needs(self) -> Needs:
        """What all its signals need.

        Where heads are read, the query's own rows always are, which also show where the heads looked.
        """
        every = reduce(or_, (signal.needs for signal in self.signals))
        if every.heads:
            every = replace(every, groups=QUERY_GROUPS if set(every.groups) <= set(QUERY_GROUPS) else ROW_GROUPS)
        return every | Needs(self.shown, QUERY_GROUPS) if self.shown else every


def route_scores(
    route: Route, scores: npt.NDArray[np.float64], documents: Sequence[Sequence[int]]
) -> tuple[npt.NDArray[np.float64], list[int | None]]:
    """Gated mean of the signals, or their absolute sum; best passage of each document.

    Args:
        route: signals and gates.
        scores: float64 [signals, passages]: see ``signal_scores``.
        documents: for each document, its passages; none for an empty document.

    Returns:
        See ``document_scores``.
    """
    if route.absolute is not None:
        return document_scores(_absolute(route, route.absolute, scores)[None], documents)
    # The mean of the rows is taken below: gates that sum up to their number keep its unit.
    gates = np.array(route.gates) * len(route.gates) / sum(route.gates)
    scales = np.array(route.scales) if route.scales else np.ones(len(gates))
    return document_scores(scores, documents, (scales / gates).tolist())


def _absolute(route: Route, absolute: Absolute, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """float64 [passages]. Signal by signal, in the route's order: no bit depends on how many passages there are."""
    scales = route.scales or (1.0,) * len(route.signals)
    total = np.full(scores.shape[1], absolute.bias)
    for row, gate, mean, scale in zip(scores, route.gates, absolute.means, scales, strict=True):
        total += gate * (row - mean) / scale
    return total
