"""Read-outs: how attention rows become one score for each head and passage.

``rows`` is float32 [heads, 4, tokens], the attention of the tail averaged over (0) all its rows, (1) the same for
"N/A", (2) the query's own tokens, (3) the tokens of "N/A"; ``query`` needs the last two only. c_t below is a token's
calibrated attention, and a passage's tokens with c_t < mean - 2 sd are dropped, for each head by itself (ICR, arXiv
2410.02642).

* ``icr``: sum of c_t over all tail rows; the published formula.
* ``query``: sum of c_t over the query's rows, divided by the square root of the passage's tokens.
* ``share``: log ratio of the passage's share of attention mass, query against N/A; no mask, no length term.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

__all__ = ["READOUTS", "ReadOut", "passage_scores", "token_weights"]

ReadOut = Literal["query", "share", "icr"]
READOUTS: tuple[ReadOut, ...] = get_args(ReadOut)

_MASK_FROM_TOKENS = 4
# Keeps the logarithm of a passage that gets no attention finite; a twentieth of an even share of 50 documents.
_SHARE_FLOOR = 1e-3

Floats = npt.NDArray[np.float64]


def passage_scores(
    rows: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64], readout: ReadOut
) -> npt.NDArray[np.float64]:
    """Score of each head for each passage.

    Args:
        rows: float32 [heads, 4, tokens], passages side by side; for ``query`` [heads, 2, tokens] will do.
        lengths: int64 [passages], all above 0; their sum is ``tokens``.
        readout: see the module's text.

    Returns:
        float64 [heads, passages]; higher is better, finite.
    """
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    if readout == "share":
        query, not_applicable = (np.log(_shares(rows[:, group], starts) + _SHARE_FLOOR) for group in (0, 1))
        return np.asarray(np.subtract(query, not_applicable), dtype=np.float64)
    calibrated = rows[:, 0].astype(np.float64) - rows[:, 1] if readout == "icr" else _of_query(rows)
    sums = np.add.reduceat(np.where(_kept(calibrated, starts, lengths), calibrated, 0.0), starts, axis=1)
    return np.asarray(sums / np.sqrt(lengths) if readout == "query" else sums)


def token_weights(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Calibrated attention of the query's own rows, summed over heads: float64 [tokens]."""
    return np.asarray(_of_query(rows).sum(axis=0))


def _of_query(rows: npt.NDArray[np.float32]) -> Floats:
    return np.asarray(rows[:, -2].astype(np.float64) - rows[:, -1])


def _shares(attention: npt.NDArray[np.float32], starts: npt.NDArray[np.int64]) -> Floats:
    mass = np.add.reduceat(attention.astype(np.float64), starts, axis=1)
    total = mass.sum(axis=1, keepdims=True)
    # A head of a sliding-window layer may see no document at all: every passage then has the same share.
    shares: Floats = np.full_like(mass, 1 / mass.shape[1])
    np.divide(mass, total, out=shares, where=total > 0)
    return shares


def _kept(calibrated: Floats, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """True for tokens above mean - 2 sd (population) of their passage, and in passages too short to tell."""
    mean = np.add.reduceat(calibrated, starts, axis=1) / lengths
    centred = calibrated - np.repeat(mean, lengths, axis=1)
    deviation = np.sqrt(np.add.reduceat(centred * centred, starts, axis=1) / lengths)
    floor = np.where(lengths < _MASK_FROM_TOKENS, -np.inf, -2 * deviation)
    # At a deviation of 0 all tokens are equal: rounding must not drop any.
    floor = np.where(deviation == 0, -np.inf, floor)
    return np.asarray(centred > np.repeat(floor, lengths, axis=1))
