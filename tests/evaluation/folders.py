"""A small collection in BEIR's layout, written to a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["DOCUMENTS", "QRELS", "QUERIES", "write_collection", "write_jsonl"]

DOCUMENTS = [
    {"_id": "cats", "title": "Cats", "text": "Adult cats sleep between twelve and sixteen hours a day."},
    {"_id": "whiskers", "title": "", "text": "A cat's whiskers are about as wide as its body."},
    {"_id": "rust", "title": "Rust", "text": "Rust is a programming language that guarantees memory safety."},
    {"_id": "bread", "title": "Bread", "text": "Mix flour, water, salt and yeast, let the dough sleep overnight."},
]
QUERIES = [
    {"_id": "q1", "text": "how long do cats sleep"},
    {"_id": "q2", "text": "baking bread"},
    {"_id": "q3", "text": "nobody judged this"},
]
QRELS = "query-id\tcorpus-id\tscore\nq1\tcats\t2\nq1\twhiskers\t1\nq1\trust\t0\nq2\tbread\t1\nq3\trust\t0\n"


def write_jsonl(path: Path, values: Sequence[Mapping[str, object]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")


def write_collection(folder: Path, qrels_name: str = "qrels.tsv") -> Path:
    """The collection above, in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "corpus.jsonl", DOCUMENTS)
    write_jsonl(folder / "queries.jsonl", QUERIES)
    (folder / qrels_name).parent.mkdir(exist_ok=True)
    (folder / qrels_name).write_text(QRELS, encoding="utf-8")
    return folder
