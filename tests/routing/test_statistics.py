"""Head statistics: kept on disk, taken up again, the same as what the reranker computes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connector.backbone.reader import Reading
from connector.documents import Hit
from connector.heads.head_sets import HeadSet
from connector.heads.readouts import READOUTS, ReadOut
from connector.reranker import Reranker
from connector.routing.statistics import HeadTable, gather

QUERY = "how long do cats sleep"


@pytest.fixture
def windows(cats: list[str]) -> list[tuple[str, str, Sequence[Hit]]]:
    hits = [Hit(f"d{at}", 9.0 - at, {"text": text}) for at, text in enumerate([*cats, "", "cats sleep " * 700])]
    return [("q1", QUERY, hits), ("q2", "bread", hits[:2]), ("empty", "x", [Hit("e", None, {"text": " "})])]


class Counting:
    """The real reader, and how often it was asked."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self.reads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def read(self, *args: Any, **kwargs: Any) -> Reading:
        self.reads += 1
        reading: Reading = self._reader.read(*args, **kwargs)
        return reading


def test_tables_are_taken_up_again_after_a_kill(
    reranker: Reranker, windows: list[tuple[str, str, Sequence[Hit]]], tmp_path: Path
) -> None:
    reader: Any = Counting(reranker.reader)
    first = next(gather(reader, windows, tmp_path))
    (tmp_path / "half.123.part").write_bytes(b"left by a kill")
    again = list(gather(reader, windows, tmp_path))
    assert reader.reads == 2
    assert [table.query_id for table in again] == ["q1", "q2"]
    np.testing.assert_array_equal(again[0].scores["query"], first.scores["query"])
    assert again[0].documents == first.documents and again[0].ids == first.ids
    # A damaged table is made again; other texts are another table.
    next(tmp_path.glob("*.npz")).write_bytes(b"PK\x03\x04 damaged")
    changed = [("q2", "bread", [Hit("d0", 1.0, {"text": "other text"})])]
    list(gather(reader, [*windows, *changed], tmp_path))
    assert reader.reads == 4


@pytest.mark.parametrize("readout", READOUTS)
def test_a_table_gives_the_reranker_s_scores(
    reranker: Reranker, windows: list[tuple[str, str, Sequence[Hit]]], tmp_path: Path, readout: ReadOut
) -> None:
    table = next(gather(reranker.reader, windows, tmp_path))
    heads = ((17, 4), (2, 4))
    direct = Reranker(reranker.reader, HeadSet(heads, 1.0), readout=readout).rerank(QUERY, windows[0][2])
    scores = {hit.index: hit.head_score for hit in direct.hits}
    ours = table.head_scores(readout, heads)
    np.testing.assert_allclose(ours, [scores[at] for at in range(len(ours))], rtol=1e-4, atol=1e-6)
    # Single heads: the best passage of each document, by that head alone.
    single = table.single_heads(readout)
    assert single.shape == (270, len(windows[0][2]))
    np.testing.assert_allclose(single[17 * 9 + 4, :5], table.head_scores(readout, [(17, 4)])[:5], atol=1e-6)


def test_missing_and_foreign_files_are_no_table(tmp_path: Path) -> None:
    assert HeadTable.load(tmp_path / "nothing.npz") is None
    (tmp_path / "text.npz").write_text("not a table")
    assert HeadTable.load(tmp_path / "text.npz") is None
