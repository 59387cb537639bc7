"""Head statistics: the score of every head for every passage of a query's window, kept on disk.

Gathering them needs the LLM; all that chooses heads, weights, read-outs or routes afterwards works from these tables.
One file a query, written at once or not at all: a run that was killed goes on where it stopped, and shards that ran
on other machines are merged by copying their files.
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

from connector.backbone.reader import EmbeddedForm, Reader
from connector.documents import Hit, document_text, has_text
from connector.errors import DataError
from connector.heads.fusion import rank_scores
from connector.heads.needs import Needs
from connector.heads.readouts import HeadSignal, passage_scores
from connector.heads.scoring import document_scores
from connector.heads.signals import Signal
from connector.routing.query_embedding import POOLINGS, QueryEmbedding
from connector.sections import READOUTS, ReadOut
from connector.statistics.table_files import Arrays, load_table, save_table

__all__ = [
    "FORMS",
    "HeadTable",
    "SearchedQuery",
    "embedded_layers",
    "embedding_of",
    "first_stage_scores",
    "gather",
    "missing_files",
    "statistics_folder",
]

# Raised when the numbers in a table change their meaning.
_VERSION = 2
# Version 1 had neither query, judgments, embeddings nor a second view; its scores mean the same.
_READABLE = (1, 2)
FORMS: tuple[EmbeddedForm, ...] = ("query", "prompt")
_LAYER_STEP = 3

Scores = dict[ReadOut, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class SearchedQuery:
    """A query and its first-stage hits, best first.

    Attributes:
        query_id: the query.
        query: its text.
        hits: at most a window's worth.
        qrels: its judgments, by document id; empty where they are not needed.
        source: where the query comes from, for reports: a collection's name.
    """

    query_id: str
    query: str
    hits: Sequence[Hit]
    qrels: Mapping[str, int] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True, slots=True)
class HeadTable:
    """One query's window.

    Attributes:
        query_id: the query.
        ids: document ids, in first-stage order.
        first_stage: float64 [documents]: first-stage scores; NaN where unknown.
        scores: read-out -> float32 [heads, passages].
        documents: for each document, its passages.
        shape: (layers that were scored, heads a layer); heads are by layer.
        query: the query's text.
        qrels: judgments of the query, by document id.
        source: where the query comes from.
        other_scores: as ``scores``, with the instruction in another wording; empty where it was not asked for.
        embeddings: float32 [forms, layers, 2, hidden]: hidden states of the query alone, for each of ``FORMS`` and
            ``embedded_layers``: mean and last token (``Reader.embed``); None where they were not asked for.
    """

    query_id: str
    ids: tuple[str, ...]
    first_stage: npt.NDArray[np.float64]
    scores: Scores
    documents: tuple[tuple[int, ...], ...]
    shape: tuple[int, int]
    query: str = ""
    qrels: Mapping[str, int] = field(default_factory=dict)
    source: str = ""
    other_scores: Scores = field(default_factory=dict)
    embeddings: npt.NDArray[np.float32] | None = None

    def head_scores(
        self, readout: ReadOut, heads: Sequence[tuple[int, int]] | None = None, scales: Sequence[float] = ()
    ) -> npt.NDArray[np.float64]:
        """Scores of a head set (default: all heads) as the reranker makes them: float64 [documents]."""
        table = self.scores[readout]
        rows = slice(None) if heads is None else [layer * self.shape[1] + head for layer, head in heads]
        return document_scores(table[rows].astype(np.float64), self.documents, scales)[0]

    def signal_scores(self, signals: Sequence[Signal]) -> npt.NDArray[np.float64]:
        """What ``signals.signal_scores`` gives of the table's reading: float64 [signals, passages].

        Raises:
            DataError: a signal is no head's read-out, and the table holds no other.
        """
        found = []
        for signal in signals:
            if not isinstance(signal, HeadSignal):
                raise DataError(f"head statistics hold no {type(signal).__name__}; gather them again")
            found.append(self.scores[signal.readout][signal.layer * self.shape[1] + signal.head])
        return np.stack(found).astype(np.float64)

    def single_heads(self, readout: ReadOut) -> npt.NDArray[np.float64]:
        """Every head's own document scores, best passage each: float64 [heads, documents]."""
        return _by_document(self.scores[readout], self.documents)

    def other_single_heads(self, readout: ReadOut) -> npt.NDArray[np.float64]:
        """``single_heads`` of the other wording.

        Raises:
            KeyError: the table has none.
        """
        return _by_document(self.other_scores[readout], self.documents)

    def first_layers(self, layers: int) -> HeadTable:
        """The table of the first layers only."""
        if layers >= self.shape[0]:
            return self
        rows = layers * self.shape[1]
        scores: Scores = {name: table[:rows] for name, table in self.scores.items()}
        other: Scores = {name: table[:rows] for name, table in self.other_scores.items()}
        return replace(self, scores=scores, other_scores=other, shape=(layers, self.shape[1]))

    def save(self, path: Path) -> None:
        """Write the table; a kill leaves the old file, or none."""
        arrays: dict[str, npt.NDArray[np.generic]] = {f"scores_{name}": table for name, table in self.scores.items()}
        arrays.update({f"other_{name}": table for name, table in self.other_scores.items()})
        if self.embeddings is not None:
            arrays["embeddings"] = self.embeddings
        arrays["counts"] = np.array([len(part) for part in self.documents], dtype=np.int64)
        arrays["passages"] = np.array([at for part in self.documents for at in part], dtype=np.int64)
        arrays["first_stage"] = self.first_stage
        record = {
            "version": _VERSION,
            "query_id": self.query_id,
            "ids": self.ids,
            "shape": self.shape,
            "query": self.query,
            "qrels": dict(self.qrels),
            "source": self.source,
        }
        save_table(path, record, arrays)

    @classmethod
    def load(cls, path: Path) -> HeadTable | None:
        """Read a table; None if there is none, or a damaged one or one of another format."""
        return load_table(path, cls._of)

    @classmethod
    def _of(cls, record: dict[str, Any], arrays: Arrays) -> HeadTable | None:
        if record["version"] not in _READABLE:
            return None
        counts, passages = arrays["counts"].tolist(), arrays["passages"].tolist()
        starts = np.concatenate(([0], np.cumsum(counts))).astype(int).tolist()
        return cls(
            record["query_id"],
            tuple(record["ids"]),
            arrays["first_stage"],
            {name: arrays[f"scores_{name}"] for name in READOUTS},
            tuple(tuple(passages[a:b]) for a, b in zip(starts, starts[1:], strict=False)),
            (record["shape"][0], record["shape"][1]),
            record.get("query", ""),
            record.get("qrels", {}),
            record.get("source", ""),
            {name: arrays[f"other_{name}"] for name in READOUTS if f"other_{name}" in arrays},
            arrays.get("embeddings"),
        )


def _by_document(scores: npt.NDArray[np.float32], documents: Sequence[Sequence[int]]) -> npt.NDArray[np.float64]:
    table = scores.astype(np.float64)
    lowest = table.min(axis=1) - np.ptp(table, axis=1) - 1
    columns = [table[:, list(part)].max(axis=1) if part else lowest for part in documents]
    return np.stack(columns, axis=1)


def first_stage_scores(known: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """First-stage scores of a window, best first, or -log of its ranks where one is NaN: float64 [documents]."""
    return known if np.isfinite(known).all() else rank_scores(range(1, len(known) + 1))


def embedded_layers(layers: int) -> tuple[int, ...]:
    """Layers whose entering states are kept as query embeddings, of an LLM with so many layers."""
    return tuple(range(0, layers * 2 // 3, _LAYER_STEP))


def embedding_of(table: HeadTable, embedding: QueryEmbedding, layers: int) -> npt.NDArray[np.float32]:
    """What ``QueryEmbedding.of_query`` gives, from a query's head statistics.

    Args:
        table: gathered with ``embed``.
        embedding: how the vector is made.
        layers: decoder layers of the LLM.

    Raises:
        DataError: the table holds no embedding, or not of these layers.
    """
    kept = embedded_layers(layers)
    if table.embeddings is None or not set(embedding.layers) <= set(kept):
        raise DataError(
            f"the head statistics of query {table.query_id} hold no hidden states of the layers "
            f"{', '.join(map(str, embedding.layers))}; gather them again"
        )
    at = [kept.index(layer) for layer in embedding.layers]
    states = table.embeddings[FORMS.index(embedding.form)][at, POOLINGS.index(embedding.pooling)]
    known = bool(np.isfinite(table.first_stage).all())
    return embedding.joined(states, table.query, table.first_stage.tolist() if known else None)


def statistics_folder(cache: Path, reader: Reader) -> Path:
    """Where the tables of one backbone, template, layout and precision are kept."""
    return cache / "statistics" / f"{reader.fingerprint[:16]}-{reader.runtime.precision}"


def gather(
    reader: Reader,
    queries: Iterable[SearchedQuery],
    folder: Path,
    fields: Sequence[str] = (),
    *,
    layers: int | None = None,
    other_wording: bool = False,
    embed: bool = False,
) -> Iterator[HeadTable]:
    """Score every head for each query's window, or take what an earlier run has stored.

    Args:
        reader: the LLM.
        queries: with their hits; an empty window is passed over.
        folder: where the tables are kept; made if missing.
        fields: fields of the hits that are read; empty: all text fields.
        layers: heads of the first so many layers only; None: of all.
        other_wording: score them a second time, with the instruction in another wording.
        embed: also keep the query's embeddings.

    Raises:
        BackboneError: the LLM failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shape = reader.runtime.shape
    cut = shape.layers if layers is None else min(layers, shape.layers)
    for searched in queries:
        texts = [document_text(hit.fields, fields) for hit in searched.hits]
        if not any(has_text(text) for text in texts):
            continue
        table, path = _stored(reader, searched, texts, folder, cut)
        texts = [text if has_text(text) else "" for text in texts]
        known = table
        heads = [head for head in shape.all_heads() if head[0] < cut]
        if table is None:
            table = HeadTable(
                searched.query_id,
                tuple(hit.id for hit in searched.hits),
                np.array([np.nan if hit.score is None else hit.score for hit in searched.hits], dtype=np.float64),
                *_scores(reader, searched.query, texts, heads, other_wording=False),
                (cut, shape.heads),
            )
        if other_wording and not table.other_scores:
            rows = [head for head in shape.all_heads() if head[0] < table.shape[0]]
            other, _ = _scores(reader, searched.query, texts, rows, other_wording=True)
            table = replace(table, other_scores=other)
        if embed and table.embeddings is None:
            wanted = embedded_layers(shape.layers)
            states = np.stack([reader.embed(searched.query, wanted, form) for form in FORMS])
            table = replace(table, embeddings=states)
        if (table.query, table.qrels, table.source) != (searched.query, searched.qrels, searched.source):
            table = replace(table, query=searched.query, qrels=dict(searched.qrels), source=searched.source)
        if table is not known:
            table.save(path)
        yield table.first_layers(cut)


def missing_files(
    reader: Reader,
    queries: Iterable[SearchedQuery],
    folder: Path,
    fields: Sequence[str] = (),
    *,
    layers: int | None = None,
    other_wording: bool = False,
) -> list[tuple[SearchedQuery, Path]]:
    """The queries whose windows ``gather`` would have to read documents for, each with its table's file.

    Args:
        reader, queries, folder, fields, layers, other_wording: see there.
    """
    shape = reader.runtime.shape
    cut = shape.layers if layers is None else min(layers, shape.layers)
    found = []
    for searched in queries:
        texts = [document_text(hit.fields, fields) for hit in searched.hits]
        if any(has_text(text) for text in texts):
            table, path = _stored(reader, searched, texts, folder, cut)
            if table is None or (other_wording and not table.other_scores):
                found.append((searched, path))
    return found


def _stored(
    reader: Reader, searched: SearchedQuery, texts: Sequence[str], folder: Path, cut: int
) -> tuple[HeadTable | None, Path]:
    """What is there already (a table of all layers serves every cut), and where a new one goes."""
    hits = [hit.id for hit in searched.hits]
    settings = [reader.fingerprint, reader.budget, searched.query_id, searched.query, hits, texts]
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:32]
    whole = folder / f"{digest}.npz"
    table = HeadTable.load(whole)
    if table is not None or cut == reader.runtime.shape.layers:
        return table, whole
    path = folder / f"{digest}-{cut}.npz"
    return HeadTable.load(path), path


def _scores(
    reader: Reader, query: str, texts: Sequence[str], heads: Sequence[tuple[int, int]], *, other_wording: bool
) -> tuple[Scores, tuple[tuple[int, ...], ...]]:
    reading = reader.read(query, texts, Needs(tuple(heads)), other_wording=other_wording)
    scores = {name: passage_scores(reading, name).astype(np.float32) for name in READOUTS}
    return scores, reading.documents
