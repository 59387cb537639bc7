"""Signal statistics: hidden states and likelihoods of a query behind each document of its window, kept on disk.

Gathering them needs the LLM; all that fits probes and weights afterwards works from these tables. One file a query
holds every document that was ever read for it, for a document's numbers do not depend on the others: another first
stage or a longer window reads what is new. A file is written at once or not at all: a run that was killed goes on
where it stopped, and shards that ran on other machines are merged by copying their files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from connector.backbone.reader import Reader
from connector.backbone.reading import Reading
from connector.documents import document_text, has_text
from connector.heads.needs import Needs
from connector.heads.row_groups import RowGroup
from connector.heads.signals import Signal, signal_scores
from connector.statistics.head_tables import SearchedQuery
from connector.statistics.table_files import Arrays, load_table, save_table

__all__ = ["SignalTable", "gather_signals", "unread_files", "unread_texts"]

# Raised when the numbers in a table change their meaning.
_VERSION = 2


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
        similarities: float32 [passages]: cosines of the reader's embedding model, which are not stored; none where
            they were not asked for.
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
    similarities: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, dtype=np.float32))

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


@dataclass(frozen=True, slots=True)
class _Stored:
    """Passages of all documents that were read for a query.

    Attributes:
        documents: for each document, by the hash of its text, its passages.
        states: float32 [layers, passages, hidden]: see ``SignalTable``.
        log_probabilities: float32 [passages, query tokens]: see ``SignalTable``.
        lengths: int64 [passages].
    """

    documents: Mapping[str, Sequence[int]]
    states: npt.NDArray[np.float32]
    log_probabilities: npt.NDArray[np.float32]
    lengths: npt.NDArray[np.int64]

    @classmethod
    def of(cls, keys: Sequence[str], reading: Reading) -> _Stored:
        documents = dict(zip(keys, reading.documents, strict=True))
        return cls(documents, _rounded(reading.states), reading.log_probabilities, reading.lengths)

    def joined(self, other: _Stored) -> _Stored:
        """With the passages of another behind its own."""
        behind = len(self.lengths)
        documents = {key: [behind + at for at in passages] for key, passages in other.documents.items()}
        return _Stored(
            {**self.documents, **documents},
            np.concatenate([self.states, other.states], axis=1),
            np.concatenate([self.log_probabilities, other.log_probabilities]),
            np.concatenate([self.lengths, other.lengths]),
        )

    def table(self, searched: SearchedQuery, keys: Sequence[str], layers: tuple[int, ...]) -> SignalTable:
        """Of the query's hits, in their order; equal texts share their passages."""
        # Empty texts have no passages, and are not kept.
        documents = [self.documents.get(key, ()) for key in keys]
        own = sorted({at for passages in documents for at in passages})
        place = {at: number for number, at in enumerate(own)}
        return SignalTable(
            searched.query_id,
            tuple(hit.id for hit in searched.hits),
            np.array([np.nan if hit.score is None else hit.score for hit in searched.hits], dtype=np.float64),
            layers,
            self.states[:, own],
            self.log_probabilities[own] if len(self.log_probabilities) else self.log_probabilities,
            self.lengths[own],
            tuple(tuple(place[at] for at in passages) for passages in documents),
            searched.query,
            dict(searched.qrels),
            searched.source,
        )

    def save(self, path: Path) -> None:
        """Write them; a kill leaves the old file, or none."""
        arrays: Arrays = {
            "states": self.states.astype(np.float16),
            "log_probabilities": self.log_probabilities,
            "lengths": self.lengths,
        }
        save_table(path, {"version": _VERSION, "documents": dict(self.documents)}, arrays)

    @classmethod
    def load(cls, path: Path) -> _Stored | None:
        """Read them; None if there is none, or a damaged file or one of another format."""
        return load_table(path, cls._of)

    @classmethod
    def _of(cls, record: dict[str, Any], arrays: Arrays) -> _Stored | None:
        if record["version"] != _VERSION:
            return None
        states = arrays["states"].astype(np.float32)
        return cls(record["documents"], states, arrays["log_probabilities"], arrays["lengths"])


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
        needs: the layers whose states are kept, and whether likelihoods are; and whether similarities are wanted.
        fields: fields of the hits that are read; empty: all text fields.

    Raises:
        BackboneError: the LLM failed, or reads in another layout.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Similarities are not stored, and are made of all documents below.
    stored_needs = replace(needs, similarity=False)
    for searched in queries:
        own = _looked_up(reader, searched, folder, needs, fields)
        if own is None:
            continue
        stored = own.stored
        if own.new:
            read = _Stored.of(list(own.new), reader.read(searched.query, list(own.new.values()), stored_needs))
            stored = read if stored is None else stored.joined(read)
            stored.save(own.path)
        assert stored is not None
        table = stored.table(searched, own.keys, tuple(needs.layers))
        if needs.similarity:
            near = np.zeros(len(table.lengths), dtype=np.float32)
            for found, places in zip(reader.similarities(searched.query, own.texts), table.documents, strict=True):
                near[list(places)] = found
            table = replace(table, similarities=near)
        yield table


def unread_texts(
    reader: Reader, queries: Iterable[SearchedQuery], folder: Path, needs: Needs, fields: Sequence[str] = ()
) -> list[str]:
    """Texts that ``gather_signals`` would have the LLM read: those that no earlier run has stored.

    Args:
        reader, queries, folder, needs, fields: see there.
    """
    every = (_looked_up(reader, searched, folder, needs, fields) for searched in queries)
    return [text for own in every if own is not None for text in own.new.values()]


def unread_files(
    reader: Reader, queries: Iterable[SearchedQuery], folder: Path, needs: Needs, fields: Sequence[str] = ()
) -> list[tuple[SearchedQuery, Path]]:
    """The queries whose windows hold such texts, each with the file that they go to; queries may share one."""
    every = [(searched, _looked_up(reader, searched, folder, needs, fields)) for searched in queries]
    return [(searched, own.path) for searched, own in every if own is not None and own.new]


@dataclass(frozen=True, slots=True)
class _LookedUp:
    """What is on disk of a window, and what is not: the texts that are to be read, by their hashes."""

    path: Path
    texts: Sequence[str]
    keys: Sequence[str]
    stored: _Stored | None
    new: Mapping[str, str]


def _looked_up(
    reader: Reader, searched: SearchedQuery, folder: Path, needs: Needs, fields: Sequence[str]
) -> _LookedUp | None:
    texts = [document_text(hit.fields, fields) for hit in searched.hits]
    texts = [text if has_text(text) else "" for text in texts]
    if not any(texts):
        return None
    asked = [reader.fingerprint, reader.budget, list(needs.layers), needs.likelihood, searched.query]
    path = folder / f"{_digest(asked)}.npz"
    keys = [_digest(text) for text in texts]
    stored = _Stored.load(path)
    known = stored.documents if stored is not None else {}
    new = {key: text for key, text in zip(keys, texts, strict=True) if text and key not in known}
    return _LookedUp(path, texts, keys, stored, new)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]
