"""A document's score from those of its passages: their best, their mean, or a noisy-or of their probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from connector.statistics.signal_tables import SignalTable
from connector.studies.relevance.judged import Floats, Judged, whole_collections
from connector.training.probes import fit_probe

__all__ = ["POOLINGS", "pooled_passages"]

_STRENGTH = 0.16
_FITTING_STEPS = 200


def _noisy_or(odds: Floats) -> float:
    """log-odds that at least one of them is relevant, were they independent."""
    none = -np.logaddexp(0, odds).sum()
    return float(np.log(-np.expm1(min(none, -1e-12))) - none)


POOLINGS: Mapping[str, Callable[[Floats], float]] = {
    "best passage": lambda odds: float(odds.max()),
    "mean of the passages": lambda odds: float(odds.mean()),
    "noisy-or of the passages": _noisy_or,
    "first passage": lambda odds: float(odds[0]),
}


def pooled_passages(tables: Sequence[SignalTable]) -> dict[str, dict[str, Any]]:
    """Rows of windows in which a document has several passages; each compared with the best passage.

    The probe is fitted on first passages, and with it slope and bias of the odds, on other collections.
    """
    judged = Judged.of(tables)
    long = np.array([max(map(len, table.documents)) > 1 for table in tables])
    if not long.any():
        return {}
    scores = {name: np.zeros(judged.first_stage.shape) for name in POOLINGS}
    for train, held in whole_collections(judged, 4):
        weights = fit_probe(judged.windows.of(train.tolist()), _STRENGTH)
        slope, bias = _odds(judged.take(train), weights)
        for at in held:
            table = tables[at]
            told = slope * np.einsum("lph,lh->p", table.states, weights).astype(np.float64) + bias
            for place, passages in enumerate(table.documents):
                for name, pool in POOLINGS.items():
                    if passages:
                        scores[name][at, place] = pool(told[list(passages)])
    places = np.flatnonzero(long)
    own, rows, compared = judged.take(places), {}, None
    for name, values in scores.items():
        rows[name], fused = own.row(values[places], compared, queries=len(places))
        compared = fused if compared is None else compared
    return rows


def _odds(judged: Judged, weights: Any) -> tuple[float, float]:
    """Slope and bias of the log-odds that a document of the windows is relevant, every query counting the same."""
    there = judged.windows.there
    scores = torch.einsum("qdlh,lh->qd", judged.windows.states, torch.from_numpy(weights))[there].double()
    relevant = (judged.windows.grades > 0)[there].double()
    found = torch.tensor([1.0 / max(float(scores.std()), 1e-9), 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([found], max_iter=_FITTING_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = found[0] * scores + found[1]
        missed = torch.nn.functional.binary_cross_entropy_with_logits(logits, relevant)
        missed.backward()  # type: ignore[no-untyped-call]
        return missed

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    slope, bias = found.detach().tolist()
    return float(slope), float(bias)
