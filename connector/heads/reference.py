"""Scores of built-in documents, by which another format of a model is told from another model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from connector.golden import REFERENCE_DOCUMENTS, REFERENCE_QUERIES

__all__ = ["TEXTS", "ReferenceScores"]

TEXTS = hashlib.sha256(json.dumps([REFERENCE_QUERIES, REFERENCE_DOCUMENTS]).encode()).hexdigest()
"""Of the built-in queries and documents."""


@dataclass(frozen=True, slots=True)
class ReferenceScores:
    """Head scores of the built-in documents, from the format of the model that heads or a router were made with.

    Attributes:
        texts: ``TEXTS`` of the version that wrote them.
        scores: for each built-in query, those of the documents.
    """

    texts: str
    scores: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if self.texts == TEXTS and np.shape(self.scores) != (len(REFERENCE_QUERIES), len(REFERENCE_DOCUMENTS)):
            raise ValueError("reference.scores: give one for each built-in query and document")

    @classmethod
    def of(cls, scores: npt.NDArray[np.float64]) -> ReferenceScores:
        """Scores found now.

        Args:
            scores: float64 [queries, documents].
        """
        return cls(TEXTS, tuple(tuple(row) for row in scores.round(6).tolist()))

    def difference(self, found: npt.NDArray[np.float64]) -> float:
        """How far other scores lie from these, in units of the spread of one query's documents.

        Both are root mean squares of scores less their query's mean: what moves all documents of a query alike
        changes no order. 0: the same; about 1.4: no more alike than two models.

        Args:
            found: float64 [queries, documents].
        """
        own = _centred(np.array(self.scores))
        spread = np.sqrt(np.mean(own**2))
        apart = float(np.sqrt(np.mean((_centred(found) - own) ** 2)))
        return apart / float(spread) if spread > 0 else float("inf")


def _centred(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    centred: npt.NDArray[np.float64] = scores - scores.mean(axis=1, keepdims=True)
    return centred
