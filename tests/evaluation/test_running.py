"""Rows of a collection: names and order, values against scipy, windows that stay what they are, files."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from connector.documents import Hit
from connector.errors import DataError
from connector.evaluation.evaluate import EvaluateOptions, evaluate
from connector.evaluation.measures import MEASURES, per_query
from connector.evaluation.report import Report, System, render_controls, render_table
from connector.evaluation.routed_systems import route_ranking
from connector.evaluation.running import Ranked, shuffled, signal_systems, systems, window_recall
from connector.evaluation.runs import read_run
from connector.evaluation.system_files import run_name, write_per_query, write_runs
from connector.reranking.reranker import Reranker
from connector.settings import load_settings
from connector.statistics.signal_tables import SignalTable
from tests.evaluation.folders import DOCUMENTS, write_collection, write_jsonl
from tests.evaluation.routing_world import QUERIES, STATIC, bundle, collection, tables, ways, windows
from tests.evaluation.test_report import make_report

NAMES = ["random", "static", "routed", "permuted"]


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> list[Ranked]:
    own = tables()
    router = bundle(tmp_path_factory.mktemp("bundle") / "r.onnx")
    return systems(collection(own), windows(own), own.values(), STATIC, ways=ways(router, own))


def by_name(ranked: list[Ranked]) -> dict[tuple[str, str | None], Ranked]:
    return {(each.system.name, each.system.readout): each for each in ranked}


def test_rows_come_in_their_order_alone_and_fused(ranked: list[Ranked]) -> None:
    plain = [("all", "icr"), ("static", "query"), *((name, "pool") for name in NAMES)]
    expected = [(f"{name}{suffix}", readout) for name, readout in plain for suffix in ("", "+first-stage")]
    assert [(each.system.name, each.system.readout) for each in ranked] == [("first-stage", None), *expected]
    own = tables()
    (first, *others) = systems(
        collection(own), windows(own), own.values(), STATIC, every_head=False, static_systems=False
    )
    assert first.system.name == "first-stage" and not others


def test_where_the_right_head_depends_on_the_query_the_router_wins(ranked: list[Ranked]) -> None:
    system = {key: each.system for key, each in by_name(ranked).items()}
    routed, static, permuted, chance = (system[name, "pool"] for name in ("routed", "static", "permuted", "random"))
    best = routed.measures["nDCG@10"]
    assert best > static.measures["nDCG@10"] + 0.05
    assert best > permuted.measures["nDCG@10"] + 0.05
    assert best > chance.measures["nDCG@10"] + 0.05
    assert routed.against["permuted"].p_value < 0.05 and routed.against["static"].p_value < 0.05
    assert set(permuted.against) == set(chance.against) == {"static"} and not static.against
    assert static.head_list == ((2, 0), (2, 1)) and routed.heads is None
    assert static.route["lowest_gate"] == static.route["highest_gate"] == 0.25
    assert routed.route["lowest_gate"] < routed.route["first_stage_gate"] < routed.route["highest_gate"]
    assert 1 <= routed.route["heads"] <= 2 and routed.route["deepest_layer"] == 2


@pytest.mark.parametrize("suffix", ["", "+first-stage"])
@pytest.mark.parametrize(("name", "other"), [("routed", "static"), ("routed", "permuted"), ("random", "static")])
def test_comparisons_are_scipy_s(ranked: list[Ranked], name: str, other: str, suffix: str) -> None:
    own, theirs = (by_name(ranked)[f"{each}{suffix}", "pool"] for each in (name, other))
    ids = sorted(own.values["nDCG@10"])
    differences = np.array([own.values["nDCG@10"][query] - theirs.values["nDCG@10"][query] for query in ids])
    test = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=10_000,
        batch=500,
        rng=np.random.default_rng(0),
    )
    found = own.system.against[other]
    assert found.difference == pytest.approx(differences.mean(), abs=1e-12)
    assert found.p_value == pytest.approx(test.pvalue, abs=1e-12)
    interval = stats.bootstrap(
        (differences,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert found.interval == pytest.approx((interval.low, interval.high), abs=0.02)


def test_averaged_rows_are_the_mean_of_their_draws(tmp_path: Path, ranked: list[Ranked]) -> None:
    own = tables()
    found = ways(bundle(tmp_path / "r.onnx"), own)
    permuted = next(way for way in found if way.name == "permuted")
    each = [
        by_name(systems(collection(own), windows(own), own.values(), None, ways=[replace(permuted, draws=(draw,))]))
        for draw in permuted.draws
    ]
    whole = by_name(ranked)["permuted+first-stage", "pool"]
    draws = [one["permuted+first-stage", "pool"] for one in each]
    for measure, values in whole.values.items():
        for query, value in values.items():
            assert value == pytest.approx(np.mean([one.values[measure][query] for one in draws]))
    assert whole.rankings == draws[0].rankings, "the run is the first draw's"


def test_every_row_ranks_its_window_s_documents(ranked: list[Ranked], monkeypatch: pytest.MonkeyPatch) -> None:
    own = tables()
    hits = windows(own)
    for each in ranked:
        for query, ids in each.rankings.items():
            assert sorted(ids) == sorted(hit.id for hit in hits[query])
    assert window_recall(collection(own), hits) == pytest.approx(QUERIES / (QUERIES + 1))
    # A ranking that loses a document, or puts another in its place, would change recall.
    for damage in (lambda ids: ids[:-1], lambda ids: [*ids[:-1], ids[0]]):

        def damaged(*args: Any, damage: Any = damage, **options: Any) -> list[str]:
            found: list[str] = damage(route_ranking(*args, **options))
            return found

        monkeypatch.setattr("connector.evaluation.running.route_ranking", damaged)
        with pytest.raises(DataError, match="is not of its window's documents"):
            systems(collection(own), hits, own.values(), STATIC)


def test_statistics_of_another_window_are_refused() -> None:
    own = tables()
    hits = windows(own)
    hits["q0"] = [*hits["q0"][:-1], Hit("other", 0.5, {})]
    with pytest.raises(DataError, match="query q0 are of another window"):
        systems(collection(own), hits, own.values(), None)


def test_signals_of_another_window_are_refused() -> None:
    own = tables()
    nothing = np.zeros((0, 0), dtype=np.float32)
    other = SignalTable(
        "q0",
        ("nobody",),
        np.ones(1),
        (),
        np.zeros((0, 1, 4), dtype=np.float32),
        nothing,
        np.ones(1),
        ((0,),),
        "a query",
    )
    with pytest.raises(DataError, match="query q0 are of another window"):
        signal_systems(collection(own), windows(own), [other], [])


def test_shuffled_windows_hold_the_same_in_another_order() -> None:
    hits = windows(tables())
    other = shuffled(hits, 0)
    assert other == shuffled(dict(reversed(hits.items())), 0) != shuffled(hits, 1)
    assert all(sorted(h.id for h in other[query]) == sorted(h.id for h in hits[query]) for query in hits)
    assert sum(list(other[query]) != list(hits[query]) for query in hits) >= QUERIES - 1


def test_runs_and_values_are_written_for_every_row(ranked: list[Ranked], tmp_path: Path) -> None:
    write_runs(ranked, tmp_path / "runs")
    assert {path.stem for path in (tmp_path / "runs").iterdir()} == {run_name(each.system) for each in ranked}
    for each in ranked:
        run = read_run(tmp_path / "runs" / f"{run_name(each.system)}.trec")
        assert {query: [entry.id for entry in entries] for query, entries in run.items()} == {
            query: list(ids) for query, ids in each.rankings.items() if ids
        }
    write_per_query(ranked, tmp_path / "deep" / "values.tsv")
    header, *lines = (tmp_path / "deep" / "values.tsv").read_text().splitlines()
    assert header == "query\tranking\tnDCG@10\tMRR@10"
    assert len(lines) == len(ranked) * (QUERIES + 1)
    cells = next(line.split("\t") for line in lines if line.startswith("q3\trouted+first-stage (pool)\t"))
    values = by_name(ranked)["routed+first-stage", "pool"].values
    assert cells[2:] == [f"{values['nDCG@10']['q3']:.4f}", f"{values['MRR@10']['q3']:.4f}"]
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"):
        write_runs(ranked, tmp_path / "file" / "runs")
    with pytest.raises(DataError, match="cannot write"):
        write_per_query(ranked, tmp_path / "file" / "values.tsv")


def test_the_terminal_shows_all_of_it_in_80_columns(ranked: list[Ranked]) -> None:
    timed: list[System] = [replace(each.system, seconds_per_query=10.123, seconds_cached=0.456) for each in ranked]
    report = Report("a-world", QUERIES + 1, 12, timed, make_report().provenance, 0.96)
    out = io.StringIO()
    console = Console(file=out, width=80)
    console.print(render_table(report))
    controls = render_controls(report)
    assert controls is not None
    console.print(controls)
    lines = out.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines) and "…" not in out.getvalue()
    line = next(line for line in lines if "permuted+first-stage (pool)" in line)
    assert "10.123" in line and "0.456" in line
    assert render_controls(make_report()) is None


@pytest.mark.slow
def test_smaller_windows_are_what_a_search_with_them_gives(reranker: Reranker, tmp_path: Path) -> None:
    """With the real LLM in the layout ``solo``: its scores are those of a search with the smaller window."""
    folder = write_collection(tmp_path / "small")
    more = [{"_id": f"more{at}", "title": "", "text": f"Cat number {at} sleeps."} for at in range(4)]
    write_jsonl(folder / "corpus.jsonl", [*DOCUMENTS, *more, {"_id": "empty", "title": "", "text": ""}])
    ids = ["more0", "rust", "empty", "bread", "whiskers", "more1", "cats", "more2", "more3"]
    (folder / "first.trec").write_text(
        "".join(f"{query} Q0 {own} {at} {9 - at}.0 x\n" for query in ("q1", "q2") for at, own in enumerate(ids))
    )
    settings = load_settings("/dev/null", {"cache.path": str(tmp_path / "cache")})
    options = EvaluateOptions(run="first.trec", timed=0)
    measured = evaluate(folder, settings, options, reader=reranker.reader)
    own = by_name(list(measured.ranked))["routed+first-stage", "pool"]
    assert list(own.by_window) == [5, 9]
    assert own.by_window[9] == pytest.approx(own.system.measures["nDCG@10"])
    rankings = {}
    for query, hits in measured.windows.items():
        best = reranker.rerank(measured.collection.queries[query], hits[:5]).hits
        rankings[query] = [*(hits[hit.index].id for hit in best), *(hit.id for hit in hits[5:])]
    expected = per_query(MEASURES, measured.collection.qrels, rankings)["nDCG@10"]
    assert own.by_window[5] == pytest.approx(np.mean(list(expected.values())))
    assert own.by_window[5] != pytest.approx(own.by_window[9])
    assert not measured.ranked[0].by_window
