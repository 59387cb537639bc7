"""Read-outs: how attention rows become one score for each head and passage.

Row groups are named (see ``row_groups``). c_t below is a token's calibrated attention, what it gets with the query
less what it gets with "N/A"; a passage's tokens with c_t < mean - 2 sd are dropped, for each head by itself (ICR,
arXiv 2410.02642).

* ``icr``: sum of c_t over all tail rows; the published formula.
* ``query``: sum of c_t over the query's rows, divided by the square root of the passage's tokens.
* ``share``: log ratio of the passage's share of attention mass, query against N/A; no mask, no length term.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from connector.heads.needs import Needs
from connector.heads.row_groups import QUERY_GROUPS, RowGroup
from connector.heads.signals import Observed
from connector.sections import ReadOut

__all__ = ["READOUT_GROUPS", "HeadSignal", "passage_scores", "token_weights"]

READOUT_GROUPS: Mapping[ReadOut, tuple[RowGroup, RowGroup]] = {
    "query": ("query", "query N/A"),
    "share": ("tail", "tail N/A"),
    "icr": ("tail", "tail N/A"),
}
"""The rows that each read-out takes: with the query, and with "N/A" in its place."""

_MASK_FROM_TOKENS = 4
# Keeps the logarithm of a passage that gets no attention finite; a twentieth of an even share of 50 documents.
_SHARE_FLOOR = 1e-3

Floats = npt.NDArray[np.float64]


class HeadSignal(NamedTuple):
    """One head, read in one way: a ``Signal``."""

    layer: int
    head: int
    readout: ReadOut

    @property
    def needs(self) -> Needs:
        """See ``Signal``; so all that follows."""
        return Needs(((self.layer, self.head),), READOUT_GROUPS[self.readout])

    @classmethod
    def scores(cls, signals: Sequence[HeadSignal], observed: Observed) -> npt.NDArray[np.float64]:
        place = {head: at for at, head in enumerate(observed.heads)}
        tables = {readout: passage_scores(observed, readout) for readout in {own.readout for own in signals}}
        return np.stack([tables[own.readout][place[own.layer, own.head]] for own in signals])


def passage_scores(observed: Observed, readout: ReadOut) -> npt.NDArray[np.float64]:
    """Score of each head for each passage.

    Args:
        observed: with the row groups of ``READOUT_GROUPS``; every passage has a token.
        readout: see the module's text.

    Returns:
        float64 [heads, passages]; higher is better, finite.
    """
    lengths = observed.lengths
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    asked, not_applicable = (observed.group(name) for name in READOUT_GROUPS[readout])
    if readout == "share":
        of_query, of_none = (np.log(_shares(rows, starts) + _SHARE_FLOOR) for rows in (asked, not_applicable))
        return np.asarray(np.subtract(of_query, of_none), dtype=np.float64)
    calibrated = asked.astype(np.float64) - not_applicable
    sums = np.add.reduceat(np.where(_kept(calibrated, starts, lengths), calibrated, 0.0), starts, axis=1)
    return np.asarray(sums / np.sqrt(lengths) if readout == "query" else sums)


def token_weights(observed: Observed) -> npt.NDArray[np.float64]:
    """Calibrated attention of the query's own rows, summed over heads: float64 [tokens]."""
    asked, not_applicable = (observed.group(name) for name in QUERY_GROUPS)
    return np.asarray((asked.astype(np.float64) - not_applicable).sum(axis=0))


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
