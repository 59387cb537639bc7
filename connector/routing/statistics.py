"""Head statistics: the score of every head for every passage of a query's window, kept on disk.

Gathering them needs the LLM; all that chooses heads, weights or read-outs afterwards works from these tables.
One file a query, written at once or not at all: a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from connector.backbone.reader import Reader
from connector.documents import Hit, document_text
from connector.heads.fusion import rank_scores
from connector.heads.readouts import READOUTS, ReadOut, passage_scores
from connector.heads.scoring import document_scores

__all__ = ["HeadTable", "first_stage_scores", "gather", "statistics_folder"]

# Raised when the numbers in a table change their meaning.
_VERSION = 1


@dataclass(frozen=True, slots=True)
class HeadTable:
    """One query's window.

    Attributes:
        query_id: the query.
        ids: document ids, in first-stage order.
        first_stage: float64 [documents]: first-stage scores; NaN where unknown.
        scores: read-out -> float32 [heads, passages].
        documents: for each document, its passages.
        shape: (layers, heads a layer); heads are by layer.
    """

    query_id: str
    ids: tuple[str, ...]
    first_stage: npt.NDArray[np.float64]
    scores: dict[ReadOut, npt.NDArray[np.float32]]
    documents: tuple[tuple[int, ...], ...]
    shape: tuple[int, int]

    def head_scores(
        self, readout: ReadOut, heads: Sequence[tuple[int, int]] | None = None, scales: Sequence[float] = ()
    ) -> npt.NDArray[np.float64]:
        """Scores of a head set (default: all heads) as the reranker makes them: float64 [documents]."""
        table = self.scores[readout]
        rows = slice(None) if heads is None else [layer * self.shape[1] + head for layer, head in heads]
        return document_scores(table[rows].astype(np.float64), self.documents, scales)[0]

    def single_heads(self, readout: ReadOut) -> npt.NDArray[np.float64]:
        """Every head's own document scores, best passage each: float64 [heads, documents]."""
        table = self.scores[readout].astype(np.float64)
        lowest = table.min(axis=1) - np.ptp(table, axis=1) - 1
        columns = [table[:, list(part)].max(axis=1) if part else lowest for part in self.documents]
        return np.stack(columns, axis=1)

    def save(self, path: Path) -> None:
        """Write the table; a kill leaves the old file, or none."""
        arrays: dict[str, npt.NDArray[np.generic]] = {f"scores_{name}": table for name, table in self.scores.items()}
        arrays["counts"] = np.array([len(part) for part in self.documents], dtype=np.int64)
        arrays["passages"] = np.array([at for part in self.documents for at in part], dtype=np.int64)
        arrays["first_stage"] = self.first_stage
        record = {"version": _VERSION, "query_id": self.query_id, "ids": self.ids, "shape": self.shape}
        arrays["record"] = np.frombuffer(json.dumps(record).encode(), dtype=np.uint8)
        temporary = path.with_suffix(f".{os.getpid()}.part")
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> HeadTable | None:
        """Read a table; None if there is none, or a damaged or older one."""
        try:
            # Opened here: numpy leaves the file open when it is not an archive.
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                record = json.loads(file["record"].tobytes())
                if record["version"] != _VERSION:
                    return None
                counts, passages = file["counts"].tolist(), file["passages"].tolist()
                starts = np.concatenate(([0], np.cumsum(counts))).astype(int).tolist()
                return cls(
                    record["query_id"],
                    tuple(record["ids"]),
                    file["first_stage"],
                    {name: file[f"scores_{name}"] for name in READOUTS},
                    tuple(tuple(passages[a:b]) for a, b in zip(starts, starts[1:], strict=False)),
                    (record["shape"][0], record["shape"][1]),
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None


def first_stage_scores(table: HeadTable) -> npt.NDArray[np.float64]:
    """First-stage scores of a window, or -log of its ranks where a score is unknown: float64 [documents]."""
    if np.isfinite(table.first_stage).all():
        return table.first_stage
    return rank_scores(range(1, len(table.ids) + 1))


def statistics_folder(cache: Path, reader: Reader) -> Path:
    """Where the tables of one backbone, template, layout and precision are kept."""
    return cache / "statistics" / f"{reader.fingerprint[:16]}-{reader.runtime.precision}"


def gather(
    reader: Reader, queries: Iterable[tuple[str, str, Sequence[Hit]]], folder: Path, fields: Sequence[str] = ()
) -> Iterator[HeadTable]:
    """Score every head for each query's window, or take what an earlier run has stored.

    Args:
        reader: the LLM.
        queries: (query id, query, first-stage hits best first); an empty window is passed over.
        folder: where the tables are kept; made if missing.
        fields: fields of the hits that are read; empty: all text fields.

    Raises:
        BackboneError: the LLM failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shape = reader.runtime.shape
    for query_id, query, hits in queries:
        texts = [document_text(hit.fields, fields) for hit in hits]
        if not any(text.strip() for text in texts):
            continue
        settings = [reader.fingerprint, reader.budget, query_id, query, [hit.id for hit in hits], texts]
        digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
        path = folder / f"{digest[:32]}.npz"
        table = HeadTable.load(path)
        if table is None:
            reading = reader.read(query, [text if text.strip() else "" for text in texts], shape.all_heads())
            table = HeadTable(
                query_id,
                tuple(hit.id for hit in hits),
                np.array([np.nan if hit.score is None else hit.score for hit in hits], dtype=np.float64),
                {name: passage_scores(reading.rows, reading.lengths, name).astype(np.float32) for name in READOUTS},
                reading.documents,
                (shape.layers, shape.heads),
            )
            table.save(path)
        yield table
