"""TREC runs and judgments on disk: reading, checking, writing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from connector.errors import DataError
from connector.evaluation.text_lines import numbered_lines, write_text

__all__ = [
    "Qrels",
    "Run",
    "RunEntry",
    "read_pairs",
    "read_qrels",
    "read_run",
    "run_lines",
    "write_qrels",
    "write_run",
]

# Blanks inside ids would make columns; other white space (a no-break space) may be part of an id.
_COLUMNS = re.compile(r"[ \t]+")
_DECIMALS = 6
# Two steps of a 32-bit float, in proportion to the score.
_FLOAT32_STEP = 2.0**-22


class RunEntry(NamedTuple):
    """One document of a ranking."""

    id: str
    score: float


Run: TypeAlias = Mapping[str, Sequence[RunEntry]]
"""Query id -> its documents, best first."""
Qrels: TypeAlias = Mapping[str, Mapping[str, int]]
"""Query id -> document id -> grade."""


def read_run(path: Path | str) -> dict[str, list[RunEntry]]:
    """A TREC run: lines ``query Q0 document rank score tag``.

    Documents are sorted by score, best first; equal scores keep the order of the ranks given. Queries keep the
    order in which they first occur.

    Raises:
        DataError: unreadable file, a line that is none, a document twice in one query; names file and line.
    """
    path = Path(path)
    found: dict[str, dict[str, tuple[float, int]]] = {}
    for number, line in numbered_lines(path):
        where = f"{path}, line {number}"
        columns = _COLUMNS.split(line.strip(" \t"))
        if len(columns) != 6:
            raise DataError(f"{where}: {len(columns)} columns; a run has six: query Q0 document rank score tag")
        query, _, document, rank, score, _ = columns
        entries = found.setdefault(query, {})
        if document in entries:
            raise DataError(f"{where}: document {document} stands twice in query {query}; keep one of the two")
        entries[document] = (_score(score, where), _whole(rank, "rank", where))
    return {
        query: [
            RunEntry(document, score)
            for document, (score, _) in sorted(entries.items(), key=lambda item: (-item[1][0], item[1][1]))
        ]
        for query, entries in found.items()
    }


def run_lines(query: str, entries: Iterable[RunEntry], tag: str) -> str:
    """The lines of one query. Scores are made strictly decreasing, so that every reader sees this order.

    Evaluation tools sort by score and break ties in their own way; some hold scores as 32-bit floats.

    Raises:
        DataError: an id or the tag is empty or holds white space.
    """
    lines = []
    highest = math.inf
    for rank, entry in enumerate(entries, 1):
        for what, value in (("query", query), ("document", entry.id), ("tag", tag)):
            if not value or re.search(r"[ \t\r\n]", value):
                raise DataError(f"{what} '{value}' cannot stand in a TREC run: white space parts its columns")
        score = round(min(entry.score, highest), _DECIMALS)
        highest = score - max(10.0**-_DECIMALS, abs(score) * _FLOAT32_STEP)
        lines.append(f"{query} Q0 {entry.id} {rank} {score:.{_DECIMALS}f} {tag}\n")
    return "".join(lines)


def write_run(path: Path | str, run: Run, tag: str) -> None:
    """Write a TREC run, see ``run_lines``.

    Raises:
        DataError: an id cannot stand in a run, or the file cannot be written.
    """
    write_text(Path(path), (run_lines(query, entries, tag) for query, entries in run.items()))


def read_qrels(path: Path | str) -> dict[str, dict[str, int]]:
    """Judgments: ``query-id corpus-id score`` parted by tabs (BEIR, with or without its header line), or TREC's four
    columns ``query 0 document grade``.

    Raises:
        DataError: unreadable or empty file, a line that is none, two grades for one pair; names file and line.
    """
    path = Path(path)
    qrels: dict[str, dict[str, int]] = {}
    for where, columns in _rows(path):
        if len(columns) == 4:
            query, _, document, grade = columns
        elif len(columns) == 3:
            query, document, grade = columns
        else:
            raise DataError(f"{where}: {len(columns)} columns; give query-id, corpus-id and score")
        value = _whole(grade, "score", where)
        if qrels.setdefault(query, {}).setdefault(document, value) != value:
            raise DataError(f"{where}: query {query}, document {document} has two grades; keep one of the two")
    if not qrels:
        raise DataError(f"{path} holds no judgments; give lines of query-id, corpus-id and score")
    return qrels


def write_qrels(path: Path | str, qrels: Qrels) -> None:
    """Write judgments as BEIR does, with a header line.

    Raises:
        DataError: the file cannot be written.
    """
    rows = (
        f"{query}\t{document}\t{grade}\n" for query, grades in qrels.items() for document, grade in grades.items()
    )
    write_text(Path(path), ["query-id\tcorpus-id\tscore\n", *rows])


def read_pairs(path: Path | str) -> frozenset[tuple[str, str]]:
    """(query, document) pairs of a file with the columns ``query-id corpus-id``.

    Raises:
        DataError: unreadable file, a line that is none; names file and line.
    """
    pairs = set()
    for where, columns in _rows(Path(path)):
        if len(columns) < 2:
            raise DataError(f"{where}: one column; give query-id and corpus-id")
        pairs.add((columns[0], columns[1]))
    return frozenset(pairs)


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    first = True
    for number, line in numbered_lines(path):
        columns = line.split("\t") if "\t" in line else _COLUMNS.split(line.strip(" "))
        columns = [column.strip(" ") for column in columns]
        header = first and columns[0].lower() in ("query-id", "query_id", "qid")
        first = False
        if not header:
            if not all(columns):
                raise DataError(f"{path}, line {number}: an empty column; give query-id, corpus-id and score")
            yield f"{path}, line {number}", columns


def _score(text: str, where: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise DataError(f"{where}: score '{text}' is not a finite number")
    return score


def _whole(text: str, what: str, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{where}: {what} '{text}' is not a whole number") from None
