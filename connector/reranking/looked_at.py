"""Where in a document the heads looked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from connector.backbone.reading import Reading
from connector.heads.readouts import token_weights

__all__ = ["looked_at"]

# Tokens of the part of a document that is shown.
_SHOWN_TOKENS = 24


def looked_at(reading: Reading, best: Sequence[int | None]) -> list[tuple[tuple[int, int, float], ...]]:
    """Of each document the tokens that the heads looked at most in its best passage: see ``RankedHit.looked_at``.

    No tokens where no head was read.
    """
    if not reading.heads:
        return [()] * len(best)
    weights = np.maximum(token_weights(reading), 0.0)
    sums = _running_sums(weights, _SHOWN_TOKENS)
    ends = np.cumsum(reading.lengths).tolist()
    found: list[tuple[tuple[int, int, float], ...]] = []
    for passages, texts, place in zip(reading.documents, reading.texts, best, strict=True):
        if place is None:
            found.append(())
            continue
        passage, first = texts[place], 0
        tokens, end = passage.tokens, ends[passages[place]]
        if tokens > _SHOWN_TOKENS:
            # A sum that reaches into the next passage is not looked at.
            first = int(sums[end - tokens : end - _SHOWN_TOKENS + 1].argmax())
        last = min(first + _SHOWN_TOKENS, tokens)
        looked = weights[end - tokens + first : end - tokens + last].tolist()
        starts, stops = passage.spans[first:last].T.tolist()
        found.append(tuple(zip(starts, stops, looked, strict=True)))
    return found


def _running_sums(values: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    """Sums of so many values that follow each other, each summed in the same order wherever it stands."""
    count = len(values)
    sums, covered = np.zeros(count), 0
    part, size = values, 1
    while covered < width <= count:
        if width & size:
            behind = covered + size
            sums = sums[: count - behind + 1] + part[covered : covered + count - behind + 1]
            covered = behind
        part, size = part[:-size] + part[size:], 2 * size
    return sums
