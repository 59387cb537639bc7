"""TREC runs and judgments: order, ties, round trips, errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.errors import DataError
from connector.evaluation.runs import RunEntry, read_qrels, read_run, run_lines, write_qrels, write_run


def test_documents_are_sorted_by_score_and_ties_by_rank(tmp_path: Path) -> None:
    path = tmp_path / "in.trec"
    path.write_text("q2 Q0 a 1 1.0 x\nq1 Q0 b 3 2.5 x\nq1 Q0 c 2 2.5 x\nq1\tQ0\td\t1\t-1e3\tx\n")
    run = read_run(path)
    assert list(run) == ["q2", "q1"]
    assert run["q1"] == [("c", 2.5), ("b", 2.5), ("d", -1000.0)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1 Q0 b 3 2.5", "line 2: 5 columns"),
        ("q1 Q0 b 3 nan x", "line 2: score 'nan' is not a finite number"),
        ("q1 Q0 b three 1 x", "line 2: rank 'three' is not a whole number"),
        ("q1 Q0 a 3 1 x", "line 2: document a stands twice in query q1"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "in.trec"
    path.write_text(f"q1 Q0 a 1 3.0 x\n{line}\n")
    with pytest.raises(DataError, match=rf"in\.trec, {message}"):
        read_run(path)


def test_a_missing_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*gone\.trec: No such file"):
        read_run(tmp_path / "gone.trec")


@given(
    st.lists(st.floats(-1e5, 1e5), min_size=1, max_size=60).map(lambda scores: sorted(scores, reverse=True)),
)
def test_written_scores_fall_strictly_even_in_32_bits(scores: list[float]) -> None:
    lines = run_lines("q", [RunEntry(f"d{at}", score) for at, score in enumerate(scores)], "tag").splitlines()
    written = np.array([line.split()[4] for line in lines], dtype=np.float32)
    assert (np.diff(written) < 0).all()
    assert [line.split()[3] for line in lines] == [str(rank) for rank in range(1, len(scores) + 1)]


def test_a_run_comes_back_as_it_was_written(tmp_path: Path) -> None:
    run = {"q\u00a01": [RunEntry("d\u00e9", 3.5), RunEntry("b", 3.5)], "2": [RunEntry("a", -1.0)]}
    write_run(tmp_path / "out.trec", run, "mine")
    back = read_run(tmp_path / "out.trec")
    assert {query: [entry.id for entry in entries] for query, entries in back.items()} == {
        "q\u00a01": ["d\u00e9", "b"],
        "2": ["a"],
    }


@pytest.mark.parametrize(("query", "document", "tag"), [("a b", "c", "d"), ("a", "b\tc", "d"), ("a", "b", "")])
def test_what_cannot_stand_in_a_run_is_refused(query: str, document: str, tag: str) -> None:
    with pytest.raises(DataError, match="cannot stand in a TREC run"):
        run_lines(query, [RunEntry(document, 1.0)], tag)


def test_qrels_of_beir_and_trec(tmp_path: Path) -> None:
    qrels = {"q 1": {"a": 2, "b": 0}, "2": {"a": 1}}
    write_qrels(tmp_path / "qrels.tsv", qrels)
    assert read_qrels(tmp_path / "qrels.tsv") == qrels
    (tmp_path / "qrels.trec").write_text("1 0 a 2\n1 0 b -1\n")
    assert read_qrels(tmp_path / "qrels.trec") == {"1": {"a": 2, "b": -1}}
