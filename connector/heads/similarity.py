"""How near query and passage lie to each other in an embedding model that the user has beside the LLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from connector.heads.needs import Needs
from connector.heads.signals import Observed

__all__ = ["SimilaritySignal"]


class SimilaritySignal(NamedTuple):
    """The cosine of the query's and the passage's vector: a ``Signal``.

    Attributes:
        embedder: name of the embedding model.
    """

    embedder: str

    def __str__(self) -> str:
        return f"similarity/{self.embedder}"

    @property
    def needs(self) -> Needs:
        """See ``Signal``; so all that follows."""
        return Needs(groups=(), similarity=True)

    @classmethod
    def scores(cls, signals: Sequence[SimilaritySignal], observed: Observed) -> npt.NDArray[np.float64]:
        # A reader has one embedding model.
        return np.tile(observed.similarities.astype(np.float64), (len(signals), 1))
