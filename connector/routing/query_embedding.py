"""The query embedding: hidden states of the frozen LLM for the query alone, as a router takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from connector.backbone.reader import EmbeddedForm, Reader
from connector.errors import DataError
from connector.routing.statistics import FORMS, HeadTable, embedded_layers

__all__ = ["POOLINGS", "Pooling", "QueryEmbedding"]

Pooling = Literal["mean", "last"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


@dataclass(frozen=True, slots=True)
class QueryEmbedding:
    """How a query's vector is made.

    Attributes:
        form: what stands before the query in its short pass: see ``Reader.embed``.
        layers: whose entering hidden states are taken, one after the other.
        pooling: mean over the query's tokens, or its last token.
    """

    form: EmbeddedForm = "query"
    layers: tuple[int, ...] = (9,)
    pooling: Pooling = "mean"

    def of_query(self, reader: Reader, query: str) -> npt.NDArray[np.float32]:
        """One short pass of the LLM: float32 [layers x hidden]."""
        states = reader.embed(query, self.layers, self.form)
        return np.ascontiguousarray(states[:, POOLINGS.index(self.pooling)].reshape(-1))

    def of_table(self, table: HeadTable, layers: int) -> npt.NDArray[np.float32]:
        """The same from a query's head statistics: float32 [layers x hidden].

        Args:
            table: gathered with ``embed``.
            layers: decoder layers of the LLM.

        Raises:
            DataError: the table holds no embedding, or not of these layers.
        """
        kept = embedded_layers(layers)
        if table.embeddings is None or not set(self.layers) <= set(kept):
            raise DataError(
                f"the head statistics of query {table.query_id} hold no hidden states of the layers "
                f"{', '.join(map(str, self.layers))}; gather them again"
            )
        at = [kept.index(layer) for layer in self.layers]
        states = table.embeddings[FORMS.index(self.form)][at, POOLINGS.index(self.pooling)]
        return np.ascontiguousarray(states.reshape(-1), dtype=np.float32)
