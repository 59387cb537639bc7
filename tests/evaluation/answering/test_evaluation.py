"""What an evaluation found, as files: where they go, and what is said where they cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from connector.errors import DataError
from connector.evaluation.answering.evaluation import Evaluation
from connector.evaluation.report import report_from_json
from connector.sections import Settings
from tests.evaluation.answering.judged import judged, report_of


def found(row: str = "routed+first-stage", won: int = 12) -> Evaluation:
    collection, windows = judged(20)
    report, ranked = report_of(collection, {(row, "pool"): (won, 4)})
    return Evaluation(report, tuple(ranked), collection, windows, Settings())


def test_files_stand_in_folders_that_are_made(tmp_path: Path) -> None:
    measured = found()
    measured.write_report(tmp_path / "new" / "report.json")
    assert report_from_json(json.loads((tmp_path / "new" / "report.json").read_text()), "it").systems
    measured.write_page(str(tmp_path / "newer" / "report.html"))
    assert (tmp_path / "newer" / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    measured = found()
    (tmp_path / "file").write_text("")
    for write in (measured.write_report, measured.write_page, measured.write_per_query):
        with pytest.raises(DataError, match=r"cannot write .*/file/made: "):
            write(tmp_path / "file" / "made")


def test_the_verdict_is_found_once() -> None:
    measured = found()
    assert measured.verdict() is not None and measured.verdict() is measured.verdict()


def test_without_a_verdict_there_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no verdict"):
        found("permuted").write_page(tmp_path / "report.html")
    assert not list(tmp_path.iterdir())
