"""docs/results.md: made from what is committed, and from nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from connector.errors import DataError
from connector.evaluation.measures import MEASURES, Bin
from connector.evaluation.report import Report, make_system, report_from_json, report_to_json
from connector.evaluation.significance import compare
from connector.studies.condensing import read_reports
from connector.studies.relevance.windows import read_windows
from connector.studies.results_page import main, results_page
from tests.evaluation.test_report import make_report
from tests.studies.condensed import condensed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "folder"),
    [("results.md", "docs/results"), ("results-every-query.md", "docs/results/every-query")],
)
def test_the_committed_page_is_what_the_committed_results_give(repository: Path, page: str, folder: str) -> None:
    committed = (repository / "docs" / page).read_text(encoding="utf-8")
    windows = read_windows(repository / folder / "windows")
    assert committed == results_page(read_reports(repository / folder), folder, windows), "run: make docs"


def strings(value: Any) -> Iterator[str]:
    """Every text in a report, wherever it stands."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def test_committed_reports_name_no_folder_of_a_machine(repository: Path) -> None:
    paths = sorted((repository / "docs").rglob("*.json"))
    assert {path.parent.name for path in paths} >= {"results", "performance", "torch-float32"}
    for path in paths:
        for word in " ".join(strings(json.loads(path.read_text(encoding="utf-8")))).split():
            named = word.strip("'\"`(),;")
            # Settings of no file are asked for with this one.
            assert named == "/dev/null" or not named.startswith(("/", "~/", "file:/")), f"{path}: {word}"
            assert named[1:3] != ":\\", f"{path}: {word}"


def test_without_results_the_page_says_so() -> None:
    assert "There are no results yet" in results_page([])


def test_a_page_holds_means_collections_hardware_and_commands() -> None:
    page = results_page([make_report("one"), make_report("two"), make_report("one", layout="solo")])
    assert page.count("## smollm2-135m, layout ") == 2
    assert "### Mean over 2 collections" in page
    assert "one (3), two (3)" in page
    assert "| `static` (icr) | 0.6667 | 0.6667 | +0.1230 | 0 | 0 | 2 |" in page
    assert (
        "| `all` (icr) | all |  | 0.5436 | 0.5000 | +0.0000 | +0.0000 to +0.0000 | 1.0000 | 1.500 | 0.250 |" in page
    )
    assert "rh-connector --json evaluate DATA/small" in page
    assert "a processor, 2 threads" in page


def test_rows_that_a_collection_lacks_are_named() -> None:
    whole, part = make_report("one"), report_to_json(make_report("two"))
    part["rows"].pop()
    page = results_page([whole, report_from_json(part, "two.json")])
    assert "Not in every collection, so not in this table: static+first-stage (icr)." in page


def test_two_reports_of_one_collection_are_refused() -> None:
    with pytest.raises(DataError, match="two reports of one"):
        results_page([make_report("one"), make_report("one")])


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, page = tmp_path / "results", tmp_path / "results.md"
    condensed(folder, make_report("one"))
    assert main([str(folder), str(page)]) == 0
    assert page.read_text() == results_page([make_report("one")], str(folder))
    (folder / "two.json").write_text("{")
    assert main([str(folder), str(page)]) == 5
    assert "two.json is not an evaluation report" in capsys.readouterr().err
    assert main([]) == 2


def routed_report(collection: str, gains: Sequence[float], **changes: Any) -> Report:
    """A report whose router gains so much for each query over its permuted control, which gains nothing."""
    report = make_report(collection, **changes)
    values = [{f"q{at}": 0.5 + gain * share for at, gain in enumerate(gains)} for share in (0, 1)]
    before, after = (dict.fromkeys(MEASURES, own) for own in values)
    rows = [make_system("first-stage", before)]
    for suffix in ("", "+first-stage"):
        for name, own in (("static", before), ("routed", after), ("permuted", before)):
            rows.append(make_system(f"{name}{suffix}", own, before, readout="pool"))
    return replace(report, queries=len(gains), systems=rows)


def test_controls_are_pooled_over_the_queries_of_all_collections(tmp_path: Path) -> None:
    one, two = routed_report("one", [0.1, 0.2, 0.3, 0.1]), routed_report("two", [-0.05, 0.15, 0.1, 0.2])
    page = results_page(condensed(tmp_path, one, two))
    gains = {f"{at}": gain for at, gain in enumerate([0.1, 0.2, 0.3, 0.1, -0.05, 0.15, 0.1, 0.2])}
    expected = compare(gains, dict.fromkeys(gains, 0.0))
    for suffix in ("", "+first-stage"):
        for other in ("static", "permuted"):
            assert f"| `routed{suffix}` against `{other}{suffix}` | 8 | +0.1375 |" in page
    assert f"| {expected.p_value:.4f} |" in page
    assert "`routed+first-stage` against the first stage is lowest on two (+0.1000)" in page
    assert "left-out+first-stage" not in page


def test_joint_and_shuffled_reports_stand_apart_with_their_reading() -> None:
    reports = [routed_report("one", [0.1, 0.2], layout="joint", shuffled=own) for own in (True, False)]
    page = results_page([*reports, make_report("one")])
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert [heading.partition("layout ")[2] for heading in headings] == [
        "late, first 20 hits",
        "joint, first 20 hits",
        "joint, first 20 hits, shuffled",
    ]
    assert "ICR" in page.split("layout joint")[1] and "The LLM saw them in random order." in page


def test_windows_of_a_hybrid_first_stage_stand_apart(tmp_path: Path) -> None:
    plain = make_report("one")
    hybrid = replace(plain, provenance=replace(plain.provenance, first_stage="embedded BM25 and bge"))
    assert [report.provenance.first_stage for report in condensed(tmp_path, plain, hybrid)] == [
        plain.provenance.first_stage,
        "embedded BM25 and bge",
    ]
    headings = [line for line in results_page([hybrid, plain]).splitlines() if line.startswith("## ")]
    assert [heading.partition(", first ")[2] for heading in headings] == [
        "20 hits",
        "20 hits of embedded BM25 and bge",
    ]


def test_probabilities_are_compared_with_what_came_true_over_all_hits(tmp_path: Path) -> None:
    empty = [Bin(0, 0.0, 0.0)] * 8
    told = {"one": (Bin(30, 0.1, 0.22), Bin(10, 0.2, 0.2)), "two": (Bin(10, 0.1, 0.0), Bin(0, 0.0, 0.0))}
    reports = []
    for name, bins in told.items():
        report = make_report(name, layout="solo")
        routed = replace(report.systems[-1], name="routed+first-stage", readout="pool", reliability=(*bins, *empty))
        reports.append(replace(report, systems=[*report.systems, routed]))
    page = results_page(condensed(tmp_path, *reports))
    # Of 40 hits told .1, 6.6 are relevant: .065 off, in 40 of 50 hits. The collections' own: .09 and .1.
    assert "calibration error 0.052 (ECE, ten bins); mean of the collections' own 0.095" in page
    assert "| 40 | 0.100 | 0.165 |\n| 10 | 0.200 | 0.200 |" in page
    assert "Calibration error of `routed+first-stage`'s probabilities (ECE, ten bins): 0.090." in page
    # Nothing is said where a collection has none.
    assert "over all hits" not in results_page([reports[0], make_report("three", layout="solo")])


def test_a_router_with_an_embedding_model_stands_apart(tmp_path: Path) -> None:
    plain = routed_report("one", [0.1, 0.2, 0.3, 0.1])
    both = [
        replace(plain, provenance=replace(plain.provenance, router_embedder=told))
        for told in ("a 0123", "bge-small-en-v1.5 828e1496d7fa")
    ]
    reports = condensed(tmp_path, plain, *both)
    assert [report.provenance.router_embedder for report in reports] == [
        None,
        "a 0123",
        "bge-small-en-v1.5 828e1496d7fa",
    ]
    page = results_page(reports)
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert [heading.partition(", layout")[0] for heading in headings] == [
        f"## {plain.provenance.model}{beside}" for beside in ("", " with a", " with bge-small-en-v1.5")
    ]
    assert "beside the LLM bge-small-en-v1.5 828e1496d7fa" in page


def test_cascades_stand_apart_and_are_compared_with_their_router(tmp_path: Path) -> None:
    plain = routed_report("one", [0.1, 0.2, 0.3, 0.1])
    first = plain.systems[0]
    values = {measure: dict.fromkeys(first.per_query, 0.9) for measure in MEASURES}
    before = {measure: dict(first.per_query) for measure in MEASURES}
    rows = [make_system(f"cascade{suffix}", values, before, readout="pool") for suffix in ("", "+first-stage")]
    told: dict[str, Any] = {"second_router": "larger.solo.onnx 0123", "second_hits": 10}
    both = [
        replace(
            plain,
            systems=[*plain.systems, *rows],
            provenance=replace(plain.provenance, second_model=model, **told),
        )
        for model in ("larger", "largest")
    ]
    reports = condensed(tmp_path, plain, *both)
    assert [report.provenance.second_model for report in reports] == [None, "larger", "largest"]
    assert all(system.per_query for system in reports[1].systems)
    page = results_page(reports)
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert [heading.partition(" hits")[2] for heading in headings] == [
        "",
        ", the first 10 by larger",
        ", the first 10 by largest",
    ]
    assert "| `cascade+first-stage` against `routed+first-stage` | 4 | +0.2250 |" in page
    assert "| `cascade` against `first-stage` | 4 | +0.4000 |" in page
    assert "second LLM larger, router larger.solo.onnx 0123" in page
    assert "| `cascade` | `routed`, whose" in page and "`cascade`" not in results_page([plain])
    with pytest.raises(DataError, match="two reports of one"):
        results_page([*both, both[0]])
