"""Hits that something else than relevance put first: their scores tower over the rest."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

__all__ = ["BOOSTED", "TOWERING", "finite_score", "pin_floor"]

TOWERING = 10.0
"""How many times the next score a pin's is. Of 8,417 lists of BM25 and embedding scores, 2 have such a gap."""
BOOSTED = 3.0
"""The same where the search itself says that something is boosted."""
# Elasticsearch's queries ``pinned`` and ``rule`` score above all others: half of what a 32-bit float can be
# (PinnedQueryBuilder.MAX_ORGANIC_SCORE), each pin one float step below the one before.
_ABOVE_ALL = 1.7e38


def pin_floor(scores: Sequence[float], times: float = TOWERING) -> float:
    """The score from which on a hit is a pin; infinite where there is none.

    A pin's score is at least ``times`` all that is below the gap, and at least ``times`` itself. So scores that end
    at 1, as cosines, probabilities and rank fusion give, hold no pin. The lowest gap counts, for pins may tower over
    each other too.

    Args:
        scores: first-stage scores, finite, in any order.
        times: how far a gap reaches.
    """
    falling = sorted(scores, reverse=True)
    pins = sum(score >= _ABOVE_ALL for score in falling)
    # A score below 0 counts by its size: of scores around 0, a small one is not close to nothing.
    deepest = abs(falling[-1]) if falling else 0.0
    for at in range(len(falling) - 1, pins, -1):
        if falling[at - 1] >= times * max(1.0, falling[at], deepest):
            return falling[at - 1]
    return falling[pins - 1] if pins else math.inf


def finite_score(score: float) -> float:
    """The score; the largest number there is for an infinite one, which so is a pin like others."""
    return max(-sys.float_info.max, min(sys.float_info.max, score))
