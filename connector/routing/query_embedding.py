"""The query embedding: what a router knows of a query.

Hidden states of the frozen LLM for the query alone; how the first stage's scores lie in its first 20 hits, free of
their scale; and how long the query is, and whether it is put as a question. What is not known (the first stage's
scores, where only an order is) is NaN, and counts as an average query's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from connector.backbone.reader import EmbeddedForm, Reader
from connector.errors import BackboneError
from connector.heads.fusion import standardize

__all__ = ["FEATURES", "POOLINGS", "Pooling", "QueryEmbedding", "query_features"]

Pooling = Literal["mean", "last"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
FEATURES = (
    "first",
    "first - second",
    "second - third",
    "first - mean of ten",
    "last",
    "skewness",
    "second / first",
    "last / first",
    "deviation / mean",
    "log words",
    "question",
)
"""Names of the features: nine of standardized or relative first-stage scores, two of the query's text."""

_SCORED = 9
# Windows differ in length, and the best of more hits stands out more: the first ones are enough.
_HITS = 20
_QUESTION = re.compile(
    r"\s*(what|how|who|whom|whose|why|when|where|which|is|are|was|were|can|could|do|does|did|should|will)\b",
    re.IGNORECASE,
)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class QueryEmbedding:
    """How a query's vector is made: hidden states, then the features.

    Attributes:
        form: what stands before the query in its short pass: see ``Reader.embed``.
        layers: whose entering hidden states are taken, one after the other.
        pooling: mean over the query's tokens, or its last token.
        features: whether the features follow.
    """

    form: EmbeddedForm = "query"
    layers: tuple[int, ...] = (9,)
    pooling: Pooling = "mean"
    features: bool = True

    def of_query(
        self, reader: Reader, query: str, first_stage: Sequence[float] | None = None
    ) -> npt.NDArray[np.float32]:
        """One short pass of the LLM: float32 [layers x hidden + features].

        Args:
            reader: the LLM.
            query: the query.
            first_stage: its first-stage scores, in any order; None where they are not known.

        Raises:
            BackboneError: a hidden state is not finite.
        """
        states = reader.embed(query, self.layers, self.form)[:, POOLINGS.index(self.pooling)]
        if not np.isfinite(states).all():
            raise BackboneError("a hidden state of the query is not finite; check the weights and the dtype")
        return self.joined(states, query, first_stage)

    def joined(
        self, states: npt.NDArray[np.float32], query: str, first_stage: Sequence[float] | None
    ) -> npt.NDArray[np.float32]:
        """The vector from hidden states that are there: float32 [layers x hidden + features].

        Args:
            states: float32 [layers, hidden], pooled.
            query: the query.
            first_stage: its first-stage scores, in any order; None where they are not known.
        """
        parts = [states.reshape(-1).astype(np.float32)]
        if self.features:
            parts.append(query_features(query, first_stage).astype(np.float32))
        return np.concatenate(parts)


def query_features(query: str, first_stage: Sequence[float] | None) -> Floats:
    """The features of ``FEATURES``: float64 [11]; NaN where unknown.

    Args:
        query: the query.
        first_stage: its first-stage scores, in any order; None where they are not known.
    """
    found = np.full(len(FEATURES), np.nan)
    found[_SCORED] = np.log1p(len(query.split()))
    found[_SCORED + 1] = float("?" in query or _QUESTION.match(query) is not None)
    if first_stage is None or len(first_stage) < 3:
        return found
    scores = np.sort(np.asarray(first_stage, dtype=np.float64))[::-1][:_HITS]
    standard = standardize(scores)
    found[:6] = (
        standard[0],
        standard[0] - standard[1],
        standard[1] - standard[2],
        standard[0] - standard[:10].mean(),
        standard[-1],
        (standard**3).mean(),
    )
    # Ratios mean something for scores that count from 0, as BM25's do.
    if scores[-1] >= 0 and scores[0] > 0:
        found[6:_SCORED] = scores[1] / scores[0], scores[-1] / scores[0], scores.std() / scores.mean()
    return found
