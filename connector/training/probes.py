"""Linear probes of hidden states, fitted listwise on judged windows.

One weight a number of the states, found by L-BFGS on the listwise softmax cross-entropy against grades (ListNet,
Cao et al., ICML 2007), with a penalty on the squared weights of standardized states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["Windows", "fit_log_odds", "fit_probe"]

Floats = npt.NDArray[np.float64]

_STEPS, _LOGISTIC_STEPS = 60, 100
_HISTORY = 20
# Keeps what never changes from being divided by nothing.
_LEAST_DEVIATION = 1e-6


@dataclass(frozen=True, slots=True)
class Windows:
    """Judged windows side by side, filled up to the longest.

    Attributes:
        states: float32 [windows, documents, layers, hidden].
        grades: float32 [windows, documents]; 0 where there is no document.
        there: bool [windows, documents].
        weights: float32 [windows]: how much each counts; mean 1.
    """

    states: torch.Tensor
    grades: torch.Tensor
    there: torch.Tensor
    weights: torch.Tensor

    def of(self, chosen: Sequence[int]) -> Windows:
        """Some of them."""
        at = torch.tensor(list(chosen), dtype=torch.int64)
        return Windows(self.states[at], self.grades[at], self.there[at], self.weights[at])


def fit_probe(windows: Windows, strength: float) -> npt.NDArray[np.float32]:
    """Weights for states as they come: float32 [layers, hidden].

    Args:
        windows: each with a document of a higher grade than another.
        strength: of the penalty.
    """
    flat = windows.states.flatten(2)
    known = flat[windows.there]
    mean, deviation = known.mean(dim=0), known.std(dim=0).clamp_min(_LEAST_DEVIATION)
    standard = (flat - mean) / deviation
    targets = windows.grades / windows.grades.sum(dim=1, keepdim=True)
    weights = torch.zeros(flat.shape[2], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=_STEPS, history_size=_HISTORY, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        scores = standard @ weights
        told = torch.log_softmax(scores.masked_fill(~windows.there, float("-inf")), dim=1)
        missed = -(targets * told.masked_fill(~windows.there, 0.0)).sum(dim=1)
        total = (windows.weights * missed).mean() + strength * weights.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    found = (weights.detach() / deviation).view(windows.states.shape[2:])
    return np.ascontiguousarray(found.numpy(), dtype=np.float32)


def fit_log_odds(x: Floats, relevant: Floats, weights: Floats) -> tuple[float, float]:
    """Slope and bias of the log-odds that a document is relevant, by Newton's method.

    Args:
        x: float64 [documents]: what it is told by.
        relevant: float64 [documents]: 1 where it is, else 0.
        weights: float64 [documents]: how much each counts.

    Returns:
        A slope above 0, and the bias.
    """
    weights = weights / weights.sum()
    found = np.zeros(2)
    left = _missed(found, x, relevant, weights)
    for _ in range(_LOGISTIC_STEPS):
        # The logistic function, which overflows nowhere.
        told = np.exp(-np.logaddexp(0, -(found[0] * x + found[1])))
        missed, sure = weights * (told - relevant), weights * told * (1 - told)
        step = np.linalg.solve(
            [[(sure * x * x).sum() + 1e-9, (sure * x).sum()], [(sure * x).sum(), sure.sum() + 1e-9]],
            [(missed * x).sum(), missed.sum()],
        )
        # A whole step may go too far: where most are sure, the curvature is next to nothing.
        while (less := _missed(found - step, x, relevant, weights)) > left and np.abs(step).max() > 1e-10:
            step = step / 2
        found, left = found - step, less
        if np.abs(step).max() < 1e-10:
            break
    slope, bias = float(found[0]), float(found[1])
    return max(slope, 1e-3), bias


def _missed(found: Floats, x: Floats, relevant: Floats, weights: Floats) -> float:
    """Mean log-loss of slope and bias."""
    odds = found[0] * x + found[1]
    return float((weights * (np.logaddexp(0, odds) - relevant * odds)).sum())
