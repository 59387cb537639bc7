"""A folder as docs/results is, of made-up reports."""

from __future__ import annotations

import json
from pathlib import Path

from connector.evaluation.report import Report, report_to_json
from connector.studies.condensing import main, read_reports

__all__ = ["condensed"]


def condensed(folder: Path, *reports: Report) -> list[Report]:
    """What is read from it."""
    whole = folder / "whole"
    whole.mkdir(parents=True)
    paths = [whole / f"{at}.json" for at in range(len(reports))]
    for path, report in zip(paths, reports, strict=True):
        path.write_text(json.dumps(report_to_json(report)))
    assert main([*map(str, paths), str(folder)]) == 0
    return read_reports(folder)
