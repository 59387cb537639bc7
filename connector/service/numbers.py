"""Scores as the JSON numbers that every client can read.

OpenSearch's ML Commons casts each ``relevance_score`` to a Java Double, but its parser makes an Integer of
``1`` and a BigDecimal of a number with more than 18 characters, and the cast then fails the whole search. So a
score goes out with seven significant digits, always with a point or an exponent, in at most 17 characters.
"""

from __future__ import annotations

import math

__all__ = ["json_number", "probability"]

# Above 1e13 Python writes all digits of a float, and the minus sign makes it longer than 17 characters.
_LARGEST = 1e12
# The ends of (0, 1) that survive seven digits and a client's float32.
_LOWEST, _HIGHEST = 1e-30, 0.9999999


def json_number(value: float) -> float:
    """The float nearest to ``value`` whose ``repr`` (which is what ``json`` writes) is short enough.

    Never reorders: a larger value gives a larger or an equal number.

    Raises:
        ValueError: value is not finite.
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a score")
    # Adding 0.0 turns -0.0 into 0.0.
    return max(-_LARGEST, min(_LARGEST, float(f"{value:.7g}"))) + 0.0


def probability(score: float) -> float:
    """A score of any size as a JSON number strictly between 0 and 1: the logistic function.

    Raises:
        ValueError: score is not finite.
    """
    if not math.isfinite(score):
        raise ValueError(f"{score} is not a score")
    # Both branches keep exp() from overflowing.
    grown = math.exp(-abs(score))
    value = 1 / (1 + grown) if score >= 0 else grown / (1 + grown)
    return json_number(max(_LOWEST, min(_HIGHEST, value)))
