"""Judgments as people have them: pairs of query and right document (CSV), or a click log (JSON lines).

Their documents stand in an index already.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from connector.documents import has_text
from connector.errors import DataError
from connector.evaluation.collections import Collection
from connector.evaluation.text_lines import json_objects, numbered_lines

__all__ = ["load_judged_file"]

_HEADERS = ("query", "question", "search")
_DELIMITERS = ",;\t"


def load_judged_file(path: Path) -> Collection:
    """Queries and judgments of one file; a query that stands on several lines has several right documents.

    Args:
        path: ``.csv`` or ``.tsv`` with the columns query and document id, with or without a header; or ``.jsonl``
            with objects ``{"query": "…", "shown": ["id", …], "clicked": "id"}``, of which the last line of a query
            says what was shown. Lines without a click say nothing.

    Raises:
        DataError: another kind of file, or a line that is none; names file and line.
    """
    shown: dict[str, Sequence[str]] = {}
    if path.suffix in (".csv", ".tsv"):
        judged = _of_pairs(path)
    elif path.suffix == ".jsonl":
        judged, shown = _of_clicks(path)
    else:
        raise DataError(f"{path} is neither a folder, nor pairs (.csv, .tsv), nor a click log (.jsonl)")
    ids = {text: f"q{at}" for at, text in enumerate(judged, 1)}
    if not ids:
        raise DataError(f"{path} judges no query; give lines of a query and its right document's id")
    return Collection(
        name=path.resolve().stem,
        path=path,
        split="test",
        queries={ids[text]: text for text in judged},
        qrels={ids[text]: dict.fromkeys(documents, 1) for text, documents in judged.items()},
        excluded=frozenset(),
        qrels_file=path.name,
        is_indexed=True,
        shown={ids[text]: tuple(found) for text, found in shown.items()},
    )


def _of_pairs(path: Path) -> dict[str, list[str]]:
    judged: dict[str, list[str]] = {}
    for number, row in _rows(path):
        where = f"{path}, line {number}"
        if len(row) < 2:
            raise DataError(f"{where}: one column; give the query and the right document's id, parted by a comma")
        judged.setdefault(_query(row[0], where), []).append(_identity(row[1], "the document's id", where))
    return judged


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    # Read as lines first: what is not UTF-8 is told with its line.
    first, *_ = (*(line for _, line in numbered_lines(path)), "")
    delimiter = max(_DELIMITERS, key=first.count)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                header = reader.line_num == 1 and row and row[0].strip().lower() in _HEADERS
                if not header and any(cell.strip() for cell in row):
                    yield reader.line_num, row
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: no CSV ({error}); put quotes around texts") from None


def _of_clicks(path: Path) -> tuple[dict[str, list[str]], dict[str, Sequence[str]]]:
    judged: dict[str, list[str]] = {}
    shown: dict[str, Sequence[str]] = {}
    for where, value in json_objects(path):
        query = _query(value.get("query"), where)
        ids = value.get("shown")
        if not isinstance(ids, list) or not ids:
            raise DataError(f"{where}: shown is {ids!r}; give the ids of the hits that were shown, best first")
        clicked = value.get("clicked")
        clicks = clicked if isinstance(clicked, list) else [] if clicked is None else [clicked]
        if clicks:
            judged.setdefault(query, []).extend(_identity(each, "clicked", where) for each in clicks)
            # A hit that was shown twice stands where it stood first.
            shown[query] = tuple(dict.fromkeys(_identity(each, "shown", where) for each in ids))
    return judged, shown


def _query(value: Any, where: str) -> str:
    text = " ".join(value.split()) if isinstance(value, str) else ""
    if not has_text(text):
        raise DataError(f"{where}: the query is {value!r}; give its text")
    return text


def _identity(value: Any, what: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise DataError(f"{where}: {what} is {value!r}; give an id of the index")
    return str(value).strip()
