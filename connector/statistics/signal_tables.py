"""Signal statistics: hidden states and likelihoods of a query behind each document of its window, kept on disk.

Gathering them needs the LLM; all that fits probes and weights afterwards works from these tables. One file a query,
written at once or not at all: a run that was killed goes on where it stopped, and shards that ran on other machines
are merged by copying their files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from connector.backbone.reader import Reader
from connector.backbone.reading import Reading
from connector.documents import document_text
from connector.heads.needs import Needs
from connector.heads.row_groups import RowGroup
from connector.heads.signals import Signal, signal_scores
from connector.statistics.head_tables import SearchedQuery
from connector.statistics.table_files import Arrays, load_table, save_table

__all__ = ["SignalTable", "gather_signals"]

# Raised when the numbers in a table change their meaning.
_VERSION = 1


@dataclass(frozen=True, slots=True)
class SignalTable:
    """One query's window, in the layout ``solo``.

    Attributes:
        query_id: the query.
        ids: document ids, in first-stage order.
        first_stage: float64 [documents]: first-stage scores; NaN where unknown.
        layers: whose entering states are kept.
        states: float32 [layers, passages, hidden]: of the query behind each passage, mean of its tokens; rounded to
            16 bits, as they are stored.
        log_probabilities: float32 [passages, query tokens]; no passages where they were not asked for.
        lengths: int64 [passages]: tokens of each.
        documents: for each document, its passages.
        query: the query's text.
        qrels: judgments of the query, by document id.
        source: where the query comes from.
    """

    query_id: str
    ids: tuple[str, ...]
    first_stage: npt.NDArray[np.float64]
    layers: tuple[int, ...]
    states: npt.NDArray[np.float32]
    log_probabilities: npt.NDArray[np.float32]
    lengths: npt.NDArray[np.int64]
    documents: tuple[tuple[int, ...], ...]
    query: str
    qrels: Mapping[str, int] = field(default_factory=dict)
    source: str = ""

    @classmethod
    def of(cls, searched: SearchedQuery, reading: Reading) -> SignalTable:
        """From a reading of the query's hits, in their order."""
        scores = [np.nan if hit.score is None else hit.score for hit in searched.hits]
        return cls(
            searched.query_id,
            tuple(hit.id for hit in searched.hits),
            np.array(scores, dtype=np.float64),
            reading.layers,
            _rounded(reading.states),
            reading.log_probabilities,
            reading.lengths,
            reading.documents,
            searched.query,
            dict(searched.qrels),
            searched.source,
        )

    @property
    def heads(self) -> tuple[tuple[int, int], ...]:
        """See ``Observed``: no head was read."""
        return ()

    def group(self, name: RowGroup) -> npt.NDArray[np.float32]:
        """See ``Observed``.

        Raises:
            KeyError: always: no head was read.
        """
        raise KeyError(name)

    def signal_scores(self, signals: Sequence[Signal]) -> npt.NDArray[np.float64]:
        """See ``signals.signal_scores``: float64 [signals, passages]."""
        return signal_scores(signals, self)

    def save(self, path: Path) -> None:
        """Write the table; a kill leaves the old file, or none."""
        record = {
            "version": _VERSION,
            "query_id": self.query_id,
            "ids": self.ids,
            "layers": self.layers,
            "documents": self.documents,
            "query": self.query,
            "qrels": dict(self.qrels),
            "source": self.source,
        }
        arrays: Arrays = {
            "first_stage": self.first_stage,
            "states": self.states.astype(np.float16),
            "log_probabilities": self.log_probabilities,
            "lengths": self.lengths,
        }
        save_table(path, record, arrays)

    @classmethod
    def load(cls, path: Path) -> SignalTable | None:
        """Read a table; None if there is none, or a damaged one or one of another format."""
        return load_table(path, cls._of)

    @classmethod
    def _of(cls, record: dict[str, Any], arrays: Arrays) -> SignalTable | None:
        if record["version"] != _VERSION:
            return None
        return cls(
            record["query_id"],
            tuple(record["ids"]),
            arrays["first_stage"],
            tuple(record["layers"]),
            arrays["states"].astype(np.float32),
            arrays["log_probabilities"],
            arrays["lengths"],
            tuple(tuple(passages) for passages in record["documents"]),
            record["query"],
            record["qrels"],
            record["source"],
        )


def _rounded(states: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """As they come back from the disk: a run that was taken up again gives the same numbers."""
    return states.astype(np.float16).astype(np.float32)


def gather_signals(
    reader: Reader, queries: Iterable[SearchedQuery], folder: Path, needs: Needs, fields: Sequence[str] = ()
) -> Iterator[SignalTable]:
    """Read each query's window, or take what an earlier run has stored.

    Args:
        reader: the LLM, in the layout ``solo``.
        queries: with their hits; a window without text is passed over.
        folder: where the tables are kept; made if missing.
        needs: the layers whose states are kept, and whether likelihoods are.
        fields: fields of the hits that are read; empty: all text fields.

    Raises:
        BackboneError: the LLM failed, or reads in another layout.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for searched in queries:
        texts = [document_text(hit.fields, fields) for hit in searched.hits]
        texts = [text if text.strip() else "" for text in texts]
        if not any(texts):
            continue
        wanted = [list(needs.layers), needs.likelihood]
        asked = [reader.fingerprint, reader.budget, wanted, searched.query_id, searched.query, texts]
        path = folder / f"{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]}.npz"
        table = SignalTable.load(path)
        if table is None:
            table = SignalTable.of(searched, reader.read(searched.query, texts, needs))
            table.save(path)
        yield table
