"""How likely the frozen LLM finds the query behind a document.

Query likelihood with a language model as in UPR (arXiv 2204.07496): a document that makes the query's tokens likely
is one that answers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from connector.heads.needs import Needs
from connector.heads.signals import Observed

__all__ = ["LikelihoodSignal"]


class LikelihoodSignal(NamedTuple):
    """Log-probabilities of the query's tokens: a ``Signal``.

    Attributes:
        pooling: their sum, which is the query's log-likelihood, or their mean.
    """

    pooling: Literal["sum", "mean"]

    def __str__(self) -> str:
        return f"likelihood/{self.pooling}"

    @property
    def needs(self) -> Needs:
        """See ``Signal``; so all that follows."""
        return Needs(groups=(), likelihood=True)

    @classmethod
    def scores(cls, signals: Sequence[LikelihoodSignal], observed: Observed) -> npt.NDArray[np.float64]:
        told = observed.log_probabilities.astype(np.float64)
        pooled = {"sum": told.sum(axis=1), "mean": told.mean(axis=1)}
        return np.stack([pooled[own.pooling] for own in signals])
