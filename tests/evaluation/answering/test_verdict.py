"""The verdict in three lines, and which settings the rows stand for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from connector.evaluation.answering.meaning import as_set, meaning, to_set
from connector.evaluation.answering.verdict import Verdict, assigned, verdict_of
from connector.sections import Settings
from connector.settings import load_settings
from tests.evaluation.answering.judged import judged, report_of

ROUTED = ("routed+first-stage", "pool")
DEFAULTS = Settings()


def settings_of(**options: object) -> Settings:
    return load_settings("/dev/null", {key.replace("__", "."): value for key, value in options.items()})


def verdict(
    rows: dict[tuple[str, str], tuple[int, int]], queries: int = 20, settings: Settings = DEFAULTS
) -> Verdict:
    found = verdict_of(report_of(judged(queries)[0], rows)[0], settings)
    assert found is not None and all("\n" not in line for line in found.lines)
    return found


def test_better() -> None:
    found = verdict({("routed", "pool"): (0, 0), ROUTED: (15, 1)})
    assert (found.answer, len(found.won), len(found.lost), len(found.equal)) == ("better", 15, 1, 4)
    assert found.lines[0].startswith("Better than the first stage: nDCG@10 from 0.4796 to 0.6")
    low, high = found.comparison.interval
    assert f"(95 % interval {low:+.4f} to {high:+.4f}, p = {found.comparison.p_value:.4f})." in found.lines[0]
    assert found.lines[1] == "Of 20 queries 15 won, 1 lost, 4 equal. No times were taken."
    assert found.lines[2] == "Set: nothing, the defaults do this." and found.settings == {}


def test_worse() -> None:
    found = verdict({ROUTED: (1, 15)})
    assert found.answer == "worse" and found.settings is None
    assert found.lines[0].startswith("Worse than the first stage: nDCG@10 ")
    assert found.lines[2].startswith("Set: nothing, keep the first stage.") and "rh-connector train" in found.lines[2]


def test_no_difference_tells_how_many_queries_would_show_one() -> None:
    found = verdict({ROUTED: (5, 4)})
    assert found.answer == "no difference" and found.settings is None
    assert found.lines[0].startswith("No difference to the first stage that shows: ")
    needed = int(found.lines[2].removeprefix("Set: nothing. About ").partition(" ")[0])
    assert 20 < needed <= 10_000
    # So many queries of the same kind do show it.
    times = -(-needed // 20)
    assert verdict({ROUTED: (5 * times, 4 * times)}, 20 * times).comparison.p_value < 0.1


def test_few_changes_cannot_show_anything_whichever_way_they_go() -> None:
    assert "About 60 judged queries" in verdict({ROUTED: (2, 0)}).lines[2]


@pytest.mark.parametrize(
    ("won", "queries", "said"),
    [
        (0, 20, "The mean over the queries is the same."),
        (1, 1, "1 query cannot tell"),
        (3, 9, "9 queries cannot tell"),
    ],
)
def test_where_no_number_would_mean_anything_none_is_given(won: int, queries: int, said: str) -> None:
    found = verdict({ROUTED: (won, 0)}, queries)
    assert found.answer == "no difference" and said in found.lines[2]


def test_times_are_told() -> None:
    report, _ = report_of(judged(20)[0], {ROUTED: (15, 0)})
    first, routed = report.systems
    timed = replace(report, systems=[first, replace(routed, seconds_per_query=1.5, seconds_cached=0.25)])
    found = verdict_of(timed, DEFAULTS)
    assert found is not None
    assert found.lines[1].endswith("A search takes 1.50 s longer, 0.25 s where its documents are cached.")


def test_a_row_that_is_better_still_is_named_with_its_settings() -> None:
    rows = {("static+first-stage", "query"): (18, 0), ROUTED: (6, 4), ("permuted+first-stage", "pool"): (20, 0)}
    found = verdict(rows, settings=settings_of(backbone__layout="late"))
    assert found.answer == "no difference" and found.system.label() == "routed+first-stage (pool)"
    assert found.lines[2].startswith(
        "Set: backbone.layout=late, router.mode=static. Its row static+first-stage (query)"
    )
    assert "check it on other queries" in found.lines[2]
    # A control is no setting, and two queries more are no proof.
    assert verdict({ROUTED: (15, 0), ("routed", "pool"): (17, 0)}).lines[2] == "Set: nothing, the defaults do this."


def test_a_default_is_named_where_it_is_not_set() -> None:
    rows = {("routed", "pool"): (1, 0), ROUTED: (18, 0)}
    found = verdict(rows, settings=settings_of(rerank__fusion="none"))
    assert found.system.name == "routed" and found.lines[2].startswith(
        "Set: rerank.fusion=auto. Its row routed+first"
    )


def test_what_no_row_measures_is_said() -> None:
    assert (
        verdict({ROUTED: (15, 0)}, settings=settings_of(rerank__fusion="rrf"))
        .lines[2]
        .endswith(" Not measured: rerank.fusion=rrf.")
    )
    # The layout solo measures a weight that is set.
    own = verdict({ROUTED: (15, 0)}, settings=settings_of(rerank__fusion=0.4))
    assert own.lines[2] == "Set: rerank.fusion=0.4."


def test_no_row_no_verdict() -> None:
    report, _ = report_of(judged(20)[0], {("bge", "pool"): (9, 0)})
    assert verdict_of(report, DEFAULTS) is None
    assert verdict_of(replace(report, systems=report.systems[:1]), DEFAULTS) is None


OF_HEADS = [
    *(("all", "icr"), ("static", "icr"), ("static", "query")),
    *((name, "pool") for name in ("random", "static", "routed", "permuted", "left-out", "bge")),
]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "routed+first-stage (pool)"),
        ({"router__mode": "static"}, "static+first-stage (query)"),
        ({"router__mode": "static", "rerank__readout": "icr"}, "static+first-stage (icr)"),
        ({"router__mode": "static", "rerank__readout": "share"}, "static+first-stage (pool)"),
        ({"router__mode": "all", "rerank__fusion": "none"}, "all (icr)"),
    ],
)
def test_the_row_of_the_settings(options: dict[str, object], named: str) -> None:
    rows = {(f"{name}{suffix}", readout): (1, 0) for name, readout in OF_HEADS for suffix in ("", "+first-stage")}
    report, _ = report_of(judged(2)[0], rows)
    own = settings_of(backbone__layout="late", **options)
    found = as_set(report, own)
    assert found is not None and found.label() == named
    # What the row stands for is what is set.
    told = meaning(found, report, own).settings
    assert told is not None and "rerank.window" in told
    for key, value in told.items():
        section, _, name = key.partition(".")
        if key != "rerank.readout" or own.router.mode != "all":
            assert value == getattr(getattr(own, section), name), key


def test_controls_and_peers_are_no_settings() -> None:
    report, _ = report_of(judged(2)[0], dict.fromkeys(OF_HEADS, (1, 0)))
    settings = settings_of(backbone__layout="late", rerank__window=50)
    told = {system.label(): meaning(system, report, settings) for system in report.systems}
    none = {label for label, own in told.items() if own.settings is None}
    assert none == {
        *("first-stage", "random (pool)", "static (pool)", "permuted (pool)", "left-out (pool)", "bge (pool)"),
    }
    assert all(own.what for own in told.values())
    assert to_set(told["all (icr)"], settings) == {
        "backbone.layout": "late",
        "rerank.window": 50,
        "router.mode": "all",
        "rerank.readout": "icr",
        "rerank.fusion": "none",
    }


def test_an_embedding_model_that_counts_is_set_too() -> None:
    report, _ = report_of(judged(2)[0], {ROUTED: (1, 0)})
    settings = settings_of(router__embedder="bge-small-en-v1.5", router__bundle="own.onnx")
    counted = replace(report, provenance=replace(report.provenance, router_embedder="bge-small-en-v1.5 828e1496d7fa"))
    for own, named in ((report, False), (counted, True)):
        system = as_set(own, settings)
        assert system is not None
        told = assigned(to_set(meaning(system, own, settings), settings))
        assert "router.bundle=own.onnx" in told and ("router.embedder=bge-small-en-v1.5" in told) == named


def test_without_a_router_the_likelihood_is_what_is_set() -> None:
    report, _ = report_of(judged(2)[0], {("likelihood+first-stage", "pool"): (1, 0)})
    system = as_set(report, DEFAULTS)
    assert system is not None and system.name == "likelihood+first-stage"
    assert to_set(meaning(system, report, DEFAULTS), DEFAULTS) == {}
    both, _ = report_of(judged(2)[0], {("likelihood+first-stage", "pool"): (1, 0), ROUTED: (1, 0)})
    assert meaning(both.systems[1], both, DEFAULTS).settings is None


CASCADE = {"cascade__model": "larger", "cascade__hits": 7}


def test_of_a_cascade_its_own_row_is_judged() -> None:
    rows = [("likelihood", "pool"), ("routed", "pool"), ("cascade", "pool")]
    report, _ = report_of(
        judged(2)[0], {(f"{name}{suffix}", own): (1, 0) for name, own in rows for suffix in ("", "+first-stage")}
    )
    for options, named in (
        (CASCADE, "cascade+first-stage"),
        (CASCADE | {"router__mode": "static"}, "cascade+first-stage"),
        (CASCADE | {"rerank__fusion": "none"}, "cascade"),
        ({}, "routed+first-stage"),
    ):
        found = as_set(report, settings_of(**options))
        assert found is not None and found.name == named
    settings = settings_of(**CASCADE, cascade__bundle="mine.onnx")
    told = {system.name: meaning(system, report, settings) for system in report.systems}
    own = {"cascade.model": "larger", "cascade.hits": 7, "cascade.bundle": Path("mine.onnx")}
    assert to_set(told["cascade+first-stage"], settings) == own
    assert to_set(told["cascade"], settings) == {**own, "rerank.fusion": "none"}
    assert told["cascade"].what.startswith("a cascade: ")
    # Without the second model it would be another row.
    assert to_set(told["routed+first-stage"], settings) == {"cascade.model": None}
    assert assigned(to_set(told["routed+first-stage"], settings)) == "cascade.model="
    assert load_settings("/dev/null", {"cascade.model": ""}).cascade.model is None


def test_a_second_model_that_spoils_it_is_not_advised() -> None:
    found = verdict({ROUTED: (18, 0), ("cascade+first-stage", "pool"): (9, 9)}, settings=settings_of(**CASCADE))
    assert found.system.name == "cascade+first-stage"
    assert found.lines[2].startswith("Set: cascade.model=. Its row routed+first-stage (pool) is ")
