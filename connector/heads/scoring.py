"""From per-head passage scores to one head score for each document."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["document_scores"]


def document_scores(
    scores: npt.NDArray[np.float64], documents: Sequence[Sequence[int]], scales: Sequence[float] = ()
) -> tuple[npt.NDArray[np.float64], list[int | None]]:
    """Mean over the heads, best passage of each document.

    Args:
        scores: float64 [heads, passages], heads of one head set.
        documents: for each document, its passages; none for an empty document.
        scales: for each head, a number that its scores are divided by; empty: none.

    Returns:
        float64 [documents], and each document's best passage (its place in the document). An empty document has
        no passage and scores below every other.
    """
    combined = (scores / np.asarray(scales)[:, None] if scales else scores).mean(axis=0)
    if all(len(passages) == 1 for passages in documents):
        return combined[[passage for (passage,) in documents]], [0] * len(documents)
    best = [max(range(len(passages)), key=lambda at: combined[passages[at]], default=None) for passages in documents]
    found = [combined[passages[at]] for passages, at in zip(documents, best, strict=True) if at is not None]
    lowest = below(found)
    values = [
        lowest if at is None else float(combined[passages[at]]) for passages, at in zip(documents, best, strict=True)
    ]
    return np.array(values, dtype=np.float64), best


def below(scores: Sequence[float] | npt.NDArray[np.float64]) -> float:
    """A score clearly under all of these: the lowest less their range (less 1 where they are all equal)."""
    if len(scores) == 0:
        return 0.0
    low, high = float(min(scores)), float(max(scores))
    return low - ((high - low) or 1.0)
