"""Head statistics: kept on disk, taken up again, the same as what the reranker computes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connector.backbone.reader import Reading
from connector.documents import Hit
from connector.heads.head_sets import HeadSet
from connector.reranking.reranker import Reranker
from connector.sections import READOUTS, ReadOut
from connector.statistics.head_tables import HeadTable, SearchedQuery, embedded_layers, gather, missing_files

QUERY = "how long do cats sleep"


@pytest.fixture(scope="module")
def reranker(late_reranker: Reranker) -> Reranker:
    """Heads are read in the layout ``late``."""
    return late_reranker


@pytest.fixture
def windows(cats: list[str]) -> list[SearchedQuery]:
    hits = [Hit(f"d{at}", 9.0 - at, {"text": text}) for at, text in enumerate([*cats, "", "cats sleep " * 700])]
    return [
        SearchedQuery("q1", QUERY, hits),
        SearchedQuery("q2", "bread", hits[:2]),
        SearchedQuery("e", "x", [Hit("e", None, {"text": " "})]),
    ]


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


@pytest.mark.slow
def test_tables_are_taken_up_again_after_a_kill(
    reranker: Reranker, windows: list[SearchedQuery], tmp_path: Path
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
    changed = [SearchedQuery("q2", "bread", [Hit("d0", 1.0, {"text": "other text"})])]
    list(gather(reader, [*windows, *changed], tmp_path))
    assert reader.reads == 4


@pytest.mark.slow
@pytest.mark.parametrize("readout", READOUTS)
def test_a_table_gives_the_reranker_s_scores(
    reranker: Reranker, windows: list[SearchedQuery], tmp_path: Path, readout: ReadOut
) -> None:
    table = next(gather(reranker.reader, windows, tmp_path))
    heads = ((17, 4), (2, 4))
    direct = Reranker(reranker.reader, HeadSet(heads, 1.0), readout=readout).rerank(QUERY, windows[0].hits)
    scores = {hit.index: hit.head_score for hit in direct.hits}
    ours = table.head_scores(readout, heads)
    np.testing.assert_allclose(ours, [scores[at] for at in range(len(ours))], rtol=1e-4, atol=1e-6)
    # Single heads: the best passage of each document, by that head alone.
    single = table.single_heads(readout)
    assert single.shape == (270, len(windows[0].hits))
    np.testing.assert_allclose(single[17 * 9 + 4, :5], table.head_scores(readout, [(17, 4)])[:5], atol=1e-6)


def test_missing_and_foreign_files_are_no_table(tmp_path: Path) -> None:
    assert HeadTable.load(tmp_path / "nothing.npz") is None
    (tmp_path / "text.npz").write_text("not a table")
    assert HeadTable.load(tmp_path / "text.npz") is None


def test_a_cut_a_second_wording_and_embeddings(
    reranker: Reranker, windows: list[SearchedQuery], tmp_path: Path
) -> None:
    reader: Any = Counting(reranker.reader)
    options: dict[str, Any] = {"layers": 4, "other_wording": True, "embed": True}
    unread: dict[str, Any] = {"layers": 4, "other_wording": True}
    new = missing_files(reader, windows, tmp_path, **unread)
    assert [window.query_id for window, _ in new] == ["q1", "q2"]
    judged = [replace(window, qrels={"d2": 1}, source="tiny:train") for window in windows]
    cut = list(gather(reader, judged, tmp_path, **options))
    assert reader.reads == 4 and not missing_files(reader, windows, tmp_path, **unread)
    assert all(path.is_file() for _, path in new)
    assert cut[0].shape == (4, 9) and cut[0].scores["query"].shape[0] == 36
    assert (cut[0].query, cut[0].qrels, cut[0].source) == (QUERY, {"d2": 1}, "tiny:train")
    assert cut[0].embeddings is not None
    assert cut[0].embeddings.shape == (2, len(embedded_layers(30)), 2, 576)
    # Another wording is another view of the same heads.
    one, other = cut[0].single_heads("query"), cut[0].other_single_heads("query")
    assert one.shape == other.shape and not np.allclose(one, other)
    # The table of all layers is another file, and then serves every cut.
    (whole, _) = gather(reader, windows, tmp_path)
    assert whole.shape == (30, 9) and reader.reads == 6
    np.testing.assert_allclose(whole.first_layers(4).scores["query"], cut[0].scores["query"], atol=1e-6)
    (again, _) = gather(reader, windows, tmp_path, layers=2)
    assert again.shape == (2, 9) and reader.reads == 6
    # What was learned since is added without reading anything again.
    (named, _) = gather(reader, judged, tmp_path, layers=4, embed=True)
    assert reader.reads == 6 and named.source == "tiny:train" and named.embeddings is not None


def test_tables_of_the_first_version_are_read(
    reranker: Reranker, windows: list[SearchedQuery], tmp_path: Path
) -> None:
    table = next(gather(reranker.reader, windows, tmp_path, layers=2))
    path = next(tmp_path.glob("*.npz"))
    with np.load(path) as file:
        arrays = dict(file)
    record = json.loads(arrays["record"].tobytes())
    old = {"version": 1, **{key: record[key] for key in ("query_id", "ids", "shape")}}
    arrays["record"] = np.frombuffer(json.dumps(old).encode(), dtype=np.uint8)
    np.savez(path, **arrays)
    loaded = HeadTable.load(path)
    assert loaded is not None and loaded.embeddings is None and not loaded.other_scores and loaded.query == ""
    np.testing.assert_array_equal(loaded.scores["share"], table.scores["share"])
    arrays["record"] = np.frombuffer(json.dumps({**old, "version": 99}).encode(), dtype=np.uint8)
    np.savez(path, **arrays)
    assert HeadTable.load(path) is None
