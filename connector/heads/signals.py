"""Signals: one number for each passage from one reading, whatever made it.

A head's read-out is a signal; so is a probe of hidden states, or a likelihood. A route weighs signals and does not
know what they are. To add a kind: a class as ``Signal`` asks for, in a module of its own, which says what it needs to
be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from connector.heads.needs import Needs
from connector.heads.row_groups import RowGroup

__all__ = ["Observed", "Signal", "signal_scores"]


class Observed(Protocol):
    """What signals are computed from: a reading of one query and its passages, in arrays."""

    @property
    def heads(self) -> Sequence[tuple[int, int]]:
        """The (layer, head) that were read."""
        ...

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """int64 [passages]: tokens of each passage."""
        ...

    @property
    def layers(self) -> Sequence[int]:
        """The layers whose entering states were kept."""
        ...

    @property
    def states(self) -> npt.NDArray[np.float32]:
        """float32 [layers, passages, hidden]: of the query behind each passage, mean of its tokens."""
        ...

    @property
    def log_probabilities(self) -> npt.NDArray[np.float32]:
        """float32 [passages, query tokens]: of each of the query's tokens, behind each passage."""
        ...

    @property
    def similarities(self) -> npt.NDArray[np.float32]:
        """float32 [passages]: cosines of query and passage in an embedding model."""
        ...

    def group(self, name: RowGroup) -> npt.NDArray[np.float32]:
        """Attention of a row group: float32 [heads, tokens], passages side by side.

        Raises:
            KeyError: it was not read.
        """
        ...


class Signal(Protocol):
    """One number a passage. Immutable and hashable: equal signals give equal numbers.

    As text it is its name, by which results tell that it took part.
    """

    @property
    def needs(self) -> Needs:
        """What it is computed from."""
        ...

    @classmethod
    def scores(cls, signals: Sequence[Self], observed: Observed) -> npt.NDArray[np.float64]:
        """All signals of this kind at once: float64 [signals, passages], finite, higher is better."""
        ...


def signal_scores(signals: Sequence[Signal], observed: Observed) -> npt.NDArray[np.float64]:
    """The numbers of any signals: float64 [signals, passages], in the order given."""
    found = np.empty((len(signals), len(observed.lengths)))
    for kind in dict.fromkeys(type(signal) for signal in signals):
        places = [at for at, signal in enumerate(signals) if type(signal) is kind]
        found[places] = kind.scores([signals[at] for at in places], observed)
    return found
