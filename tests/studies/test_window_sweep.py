"""Windows of each size, by the reranker itself; stopped and gone on with; summed up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from connector.evaluation.collections import load_collection
from connector.evaluation.first_stage import first_stage, open_collection_engine
from connector.reranking.reranker import Reranker
from connector.sections import Settings
from connector.studies.window_sweep import main, picked, read_lines, summary, sweep
from tests.evaluation.folders import write_collection


def test_each_window_is_what_the_reranker_gives(reranker: Reranker, settings: Settings, tmp_path: Path) -> None:
    collection = load_collection(write_collection(tmp_path / "world"))
    own = settings.model_copy(update={"cache": settings.cache.model_copy(update={"path": tmp_path})})
    windows = first_stage(collection, 3, engine=open_collection_engine(collection, own))
    lines = list(sweep(reranker, collection, windows, (1, 3)))
    assert [(line["query"], line["window"]) for line in lines] == [("q1", 1), ("q1", 3), ("q2", 1), ("q2", 3)]
    for line in lines:
        # A window of one changes nothing; what is behind the window keeps its place and counts.
        if line["window"] == 1:
            assert line["fused"] == line["alone"] == line["first_stage"] > 0
        assert 0 <= line["fused"] <= 1 and line["milliseconds"] > 0
    ranked = reranker.rerank(collection.queries["q1"], windows["q1"])
    best = windows["q1"][ranked.hits[0].index].id
    (wide,) = (line for line in lines if line["query"] == "q1" and line["window"] == 3)
    assert (wide["fused"] == 1) is (best == "cats")
    assert (
        list(sweep(reranker, collection, windows, (1, 3), [(line["query"], line["window"]) for line in lines])) == []
    )


def test_means_and_medians() -> None:
    line = {"window": 20, "documents": 20, "alone": 0.5}
    rows = summary(
        [
            {**line, "query": "a", "first_stage": 0.2, "fused": 0.6, "milliseconds": 10},
            {**line, "query": "b", "first_stage": 0.4, "fused": 0.4, "milliseconds": 30},
            {**line, "query": "c", "first_stage": 0.0, "fused": 0.0, "milliseconds": 0, "documents": 0},
            {**line, "query": "a", "window": 50, "first_stage": 0.2, "fused": 0.2, "milliseconds": 70},
        ]
    )
    assert [row.window for row in rows] == [20, 50]
    assert (rows[0].queries, rows[0].first_stage, rows[0].fused) == (3, 0.2, 0.3333)
    assert rows[0].milliseconds == 20 and rows[0].difference == pytest.approx(0.1333)


@pytest.mark.slow
def test_the_command_goes_on_where_it_was(settings: Settings, tmp_path: Path) -> None:
    folder, keep, out = write_collection(tmp_path / "world"), tmp_path / "keep.jsonl", tmp_path / "report.json"
    arguments = [str(folder), "--keep", str(keep), "--window", "2", "--set", f"cache.path={settings.cache.path}"]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and "| 2 | 2 |" in done.output
    whole = keep.read_text()
    # As a kill leaves it: one line whole, one cut off.
    keep.write_text(whole[: whole.index("\n") + 20])
    assert len(read_lines(keep)) == 1
    CliRunner().invoke(main, [*arguments, "--out", str(out)], catch_exceptions=False)
    assert sorted(line["query"] for line in read_lines(keep)) == ["q1", "q2"]
    report = json.loads(out.read_text())
    assert report["rows"][0]["queries"] == 2 and str(tmp_path) not in report["command"]


def test_another_ranking_picks_the_hits_that_are_read(reranker: Reranker, settings: Settings, tmp_path: Path) -> None:
    collection = load_collection(write_collection(tmp_path / "world"))
    own = settings.model_copy(update={"cache": settings.cache.model_copy(update={"path": tmp_path})})
    hits = first_stage(collection, 4, engine=open_collection_engine(collection, own))["q1"]
    found = picked(reranker, collection.queries["q1"], hits)
    result = reranker.rerank(collection.queries["q1"], hits)
    assert [hit.id for hit in found] == [hits[hit.index].id for hit in result.hits]
    assert {hit.id: hit.score for hit in found} == {hit.id: hit.score for hit in hits}
    assert picked(reranker, "nothing", []) == []
