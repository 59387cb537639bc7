"""A linear probe: what the hidden states of the query's tokens say of the document that they stand behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from connector.heads.needs import Needs
from connector.heads.signals import Observed

__all__ = ["ProbeSignal"]


@dataclass(frozen=True)
class ProbeSignal:
    """A weight for each number of some layers' hidden states, mean of the query's tokens: a ``Signal``.

    Attributes:
        name: what tells it from other probes.
        layers: whose entering states it looks at, in the order of its weights.
        weights: float32 [layers, hidden].
    """

    name: str
    layers: tuple[int, ...]
    weights: npt.NDArray[np.float32] = field(compare=False, repr=False)

    def __str__(self) -> str:
        return self.name

    @property
    def needs(self) -> Needs:
        """See ``Signal``; so all that follows."""
        return Needs(groups=(), layers=self.layers)

    @classmethod
    def scores(cls, signals: Sequence[ProbeSignal], observed: Observed) -> npt.NDArray[np.float64]:
        found = []
        for own in signals:
            states = observed.states[[observed.layers.index(layer) for layer in own.layers]].astype(np.float64)
            # One product a passage: its sum has the same order whatever stands beside it.
            found.append((states * own.weights[:, None, :].astype(np.float64)).sum(axis=2).sum(axis=0))
        return np.stack(found)
