"""What reading some documents for a query gives."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from connector.backbone.prompt.passages import Passage
from connector.backbone.runtime import Head
from connector.heads.row_groups import RowGroup

__all__ = ["Reading", "Rows"]

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Reading:
    """Attention of one query to the passages of its documents.

    Attributes:
        rows: float32 [heads, groups, tokens]; equal passages are read once.
        states: float32 [layers, passages, hidden]: of the query behind each passage, mean of its tokens.
        log_probabilities: float32 [passages, query tokens]: of each of the query's tokens, behind each passage.
        similarities: float32 [passages]: cosines of the reader's embedding model; none where not asked for.
        layers: whose states they are.
        groups: names of the row groups, in the order of ``rows``.
        lengths: int64 [passages]: tokens of each passage, in the order of ``rows``.
        heads: (layer, head) of each row.
        documents: for each document, the passages (indices into ``lengths``) it consists of.
        texts: for each document, its passages with their character offsets.
        truncated: for each document, whether text was left out.
        cached: passages that came from the cache, or from another request that was encoding them.
        encoded: passages that were encoded for this reading.
        timings_ms: milliseconds of ``tokenize``, ``encode``, ``read``.
        query_truncated: only the beginning of the query was read.
        instruction_truncated: the same of the instruction.
    """

    rows: Rows
    states: Rows
    log_probabilities: Rows
    similarities: Rows
    layers: tuple[int, ...]
    groups: tuple[RowGroup, ...]
    lengths: npt.NDArray[np.int64]
    heads: tuple[Head, ...]
    documents: tuple[tuple[int, ...], ...]
    texts: tuple[tuple[Passage, ...], ...] = field(repr=False)
    truncated: tuple[bool, ...]
    cached: int
    encoded: int
    timings_ms: dict[str, float]
    query_truncated: bool
    instruction_truncated: bool

    def group(self, name: RowGroup) -> Rows:
        """Attention of one row group: float32 [heads, tokens].

        Raises:
            KeyError: it was not read.
        """
        if name not in self.groups:
            raise KeyError(name)
        return self.rows[:, self.groups.index(name)]
