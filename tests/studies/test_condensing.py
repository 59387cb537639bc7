"""Small files for docs/results: the same numbers, and values by query only where a page compares over them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from connector.errors import DataError
from connector.evaluation.measures import MEASURES
from connector.evaluation.report import make_system, report_to_json
from connector.studies.condensing import main, read_reports
from connector.studies.results_page import results_page
from tests.evaluation.test_report import make_report
from tests.studies.condensed import condensed
from tests.studies.test_results_page import routed_report


def test_the_page_is_that_of_the_whole_reports(tmp_path: Path) -> None:
    whole = [
        routed_report("one", [0.1, -0.2, 0.3]),
        routed_report("two", [0.2] * 12),
        make_report("one", layout="solo"),
    ]
    found = condensed(tmp_path, *whole)
    assert [path.name for path in sorted(tmp_path.glob("*.json"))] == ["one.json", "two.json"]
    assert [(each.collection, each.provenance.layout) for each in found] == [
        ("one", "late"),
        ("one", "solo"),
        ("two", "late"),
    ]
    assert results_page(found) == results_page(whole)


def test_values_by_query_stay_where_they_are_compared_in_the_order_of_the_queries(tmp_path: Path) -> None:
    values = dict.fromkeys(MEASURES, {"q10": 0.1, "q9": 0.9, "q1": 0.5})
    rows = [make_system("first-stage", values), make_system("all", values, values, readout="icr", head_list=[(1, 2)])]
    rows.append(make_system("routed+first-stage", values, values, readout="pool"))
    condensed(tmp_path, replace(make_report("one"), systems=rows))
    (report,) = json.loads((tmp_path / "one.json").read_text())["reports"]
    assert [row.get("ndcg") for row in report["rows"]] == [[0.5, 0.1, 0.9], None, [0.5, 0.1, 0.9]]
    assert not any(key in row for row in report["rows"] for key in ("per_query", "head_list", "against_static"))


def test_a_newer_report_takes_the_place_of_the_one_on_the_same(tmp_path: Path) -> None:
    condensed(tmp_path, make_report("one"), make_report("one", shuffled=True))
    newer = make_report("one", date="2030-01-01")
    (tmp_path / "newer").write_text(json.dumps(report_to_json(newer)))
    assert main([str(tmp_path / "newer"), str(tmp_path)]) == 0
    assert [(each.provenance.shuffled, each.provenance.date == "2030-01-01") for each in read_reports(tmp_path)] == [
        (False, True),
        (True, False),
    ]
    before = (tmp_path / "one.json").read_bytes()
    assert main([str(tmp_path / "newer"), str(tmp_path)]) == 0
    assert (tmp_path / "one.json").read_bytes() == before


def test_what_is_no_report_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    condensed(tmp_path, make_report("one"))
    before = (tmp_path / "one.json").read_bytes()
    (tmp_path / "whole" / "bad.json").write_text("{}")
    assert main([str(tmp_path / "whole" / "0.json"), str(tmp_path / "whole" / "bad.json"), str(tmp_path)]) == 5
    assert "bad.json is not an evaluation report" in capsys.readouterr().err
    assert (tmp_path / "one.json").read_bytes() == before
    # A whole report among the condensed ones.
    (tmp_path / "two.json").write_text((tmp_path / "whole" / "0.json").read_text())
    assert main([str(tmp_path / "whole" / "0.json"), str(tmp_path)]) == 0
    with pytest.raises(DataError, match="two.json holds no condensed reports"):
        read_reports(tmp_path)
    assert main([]) == 2


def test_what_is_committed_is_small(repository: Path) -> None:
    """Everybody who clones or installs the sources gets it."""
    sizes = [path.stat().st_size for path in (repository / "docs" / "results").glob("*.json")]
    assert len(sizes) == 9 and sum(sizes) < 400_000
    assert all(report.systems[0].name == "first-stage" for report in read_reports(repository / "docs" / "results"))
