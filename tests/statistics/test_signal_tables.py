"""Signal statistics: a document is read once for a query, whatever else is in its window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connector.backbone.reader import Reading
from connector.documents import Hit
from connector.heads.needs import Needs
from connector.reranking.reranker import Reranker
from connector.statistics.head_tables import SearchedQuery
from connector.statistics.signal_tables import SignalTable, gather_signals

QUERY = "how long do cats sleep"
NEEDS = Needs(groups=(), layers=(2, 3), likelihood=True)
pytestmark = pytest.mark.slow


class Counting:
    """The real reader, and which documents it was given."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self.read_documents: list[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def read(self, query: str, documents: list[str], needs: Needs) -> Reading:
        self.read_documents.append(documents)
        reading: Reading = self._reader.read(query, documents, needs)
        return reading


def hits(texts: list[str]) -> list[Hit]:
    return [Hit(f"d{text}", 9.0 - at, {"text": text}) for at, text in enumerate(texts)]


def gathered(reader: Any, texts: list[str], folder: Path) -> SignalTable:
    return next(gather_signals(reader, [SearchedQuery("q", QUERY, hits(texts))], folder, NEEDS))


def by_document(table: SignalTable) -> dict[str, tuple[bytes, bytes, list[int]]]:
    return {
        own: (
            table.states[:, list(passages)].tobytes(),
            table.log_probabilities[list(passages)].tobytes(),
            table.lengths[list(passages)].tolist(),
        )
        for own, passages in zip(table.ids, table.documents, strict=True)
    }


def test_only_documents_that_are_new_to_the_query_are_read(
    reranker: Reranker, cats: list[str], tmp_path: Path
) -> None:
    reader = Counting(reranker.reader)
    long = "cats sleep " * 700
    first = gathered(reader, [cats[0], "", long, cats[1], cats[0]], tmp_path)
    assert reader.read_documents == [[cats[0], long, cats[1]]]
    assert first.documents[1] == () and len(first.documents[2]) > 1 and first.documents[4] == first.documents[0]
    second = gathered(reader, [cats[2], cats[1], long, ""], tmp_path)
    assert reader.read_documents[1:] == [[cats[2]]]
    gathered(reader, [long, cats[2], cats[0]], tmp_path)
    assert len(reader.read_documents) == 2
    # In any order and company, and from the disk or not: the same bits.
    alone = gathered(reranker.reader, [long, cats[2], cats[1], cats[0], ""], tmp_path / "other")
    for table in (first, second):
        ours, theirs = by_document(table), by_document(alone)
        assert ours == {own: theirs[own] for own in ours}
    assert second.ids == tuple(f"d{text}" for text in (cats[2], cats[1], long, ""))
    assert np.array_equal(second.first_stage, [9.0, 8.0, 7.0, 6.0])


def test_a_damaged_file_is_read_again(reranker: Reranker, cats: list[str], tmp_path: Path) -> None:
    first = gathered(reranker.reader, cats, tmp_path)
    (path,) = tmp_path.glob("*.npz")
    path.write_bytes(path.read_bytes()[:100])
    again = gathered(reranker.reader, cats, tmp_path)
    assert by_document(first) == by_document(again)


def test_windows_without_text_are_passed_over(reranker: Reranker, tmp_path: Path) -> None:
    empty = [SearchedQuery("q", QUERY, [Hit("a", 1.0, {"text": " "})])]
    assert list(gather_signals(reranker.reader, empty, tmp_path, NEEDS)) == []
