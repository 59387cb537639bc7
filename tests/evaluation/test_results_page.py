"""docs/results.md: made from what is committed, and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from connector.errors import DataError
from connector.evaluation.report import report_from_json, report_to_json
from connector.evaluation.results_page import main, read_reports, results_page
from tests.evaluation.test_report import make_report


def test_the_committed_page_is_what_the_committed_results_give(repository: Path) -> None:
    committed = (repository / "docs" / "results.md").read_text(encoding="utf-8")
    assert committed == results_page(read_reports(repository / "docs" / "results")), "run: make docs"


def test_committed_results_name_no_folder_of_a_machine(repository: Path) -> None:
    for path in (repository / "docs" / "results").glob("*.json"):
        for word in json.loads(path.read_text(encoding="utf-8"))["provenance"]["command"].split():
            assert not word.lstrip("'\"").startswith("/"), f"{path}: {word}"


def test_without_results_the_page_says_so() -> None:
    assert "There are no results yet" in results_page([])


def test_a_page_holds_means_collections_hardware_and_commands() -> None:
    page = results_page([make_report("one"), make_report("two"), make_report("one", layout="late")])
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
    folder.mkdir()
    (folder / "one.json").write_text(json.dumps(report_to_json(make_report("one"))))
    assert main([str(folder), str(page)]) == 0
    assert page.read_text() == results_page([make_report("one")])
    (folder / "two.json").write_text("{")
    assert main([str(folder), str(page)]) == 5
    assert "two.json is not an evaluation report" in capsys.readouterr().err
    assert main([]) == 2
