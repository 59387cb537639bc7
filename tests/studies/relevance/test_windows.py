"""What more hits are worth: reports of collections become one study, a table and a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from connector.errors import DataError
from connector.studies.relevance.windows import joined, main, read_windows, windows_section


def report(collection: str, model: str = "small", gain: float = 0.1) -> dict[str, Any]:
    lines = [
        {
            "query": f"q{at}",
            "window": size,
            "documents": size,
            "first_stage": 0.4,
            "fused": 0.4 + gain * (size / 20),
            "alone": 0.3,
            "milliseconds": 10.0 * size,
        }
        for size in (10, 20)
        for at in (2, 0, 1)
    ]
    about = {"layout": "solo", "precision": "bfloat16", "threads": 1, "cpu": "a processor", "date": "2026-01-01"}
    kept = {"split": "test", "limit": 3, "seed": 0, "versions": {}, "lines": lines}
    return {"model": model, "collection": collection, **about, **kept}


def test_windows_are_compared_query_by_query() -> None:
    told = windows_section([joined([report("b", gain=0.1), report("a", gain=0.3)])])
    assert "drawn with seed 0" in told and "1 thread(s) of\na processor" in told
    table = [[cell.strip() for cell in line.split("|")][1:-1] for line in told.splitlines() if line.startswith("|")]
    few, many = ({row[3]: row for row in table}[size] for size in ("10", "20"))
    assert few[:5] == ["`small`", "2", "6", "10", "0.5000"] and many[:5] == ["`small`", "2", "6", "20", "0.6000"]
    assert few[5].startswith("+0.1000 (+0.0") and many[5].startswith("+0.2000 (+0.1")
    # The queries of one collection are alike: resampled, the mean stays between the two collections'.
    assert few[6].startswith("-0.1000 (-0.1") and many[6] == ""
    assert (few[7], many[7]) == ("100", "200")


def test_reports_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(DataError, match=r"differ in model \(large, small\)"):
        joined([report("a"), report("b", model="large")])
    with pytest.raises(DataError, match="differ in layout"):
        joined([report("a"), {**report("b"), "layout": "late"}])
    with pytest.raises(DataError, match="a, a: give one of each"):
        joined([report("a"), report("a")])
    whole = report("a")
    for lines in ([], whole["lines"][:-1], [line for line in whole["lines"] if line["window"] == 10]):
        with pytest.raises(DataError, match="the report of a lacks"):
            joined([{**whole, "lines": lines}])
    with pytest.raises(DataError, match="in different ways"):
        windows_section([joined([whole]), {**joined([whole]), "seed": 9}])


def test_the_command_keeps_a_file_a_model_and_draws_all(tmp_path: Path) -> None:
    paths = []
    for at, made in enumerate((report("a"), report("b"), report("a", model="large"))):
        paths.append(tmp_path / f"{at}.json")
        paths[-1].write_text(json.dumps(made))
    kept = tmp_path / "kept"
    kept.mkdir()
    given = [*map(str, paths), "--folder", str(kept), "--picture", str(tmp_path / "windows.svg")]
    assert CliRunner().invoke(main, given, catch_exceptions=False).exit_code == 0
    assert [study["model"] for study in read_windows(kept)] == ["large", "small"]
    assert {*read_windows(kept)[1]["collections"]} == {"a", "b"}
    told = [str(paths[2]), *given[3:], "--without-times"]
    assert CliRunner().invoke(main, told, catch_exceptions=False).exit_code == 0
    page = windows_section(read_windows(kept))
    assert page.count("| not measured |") == 2 and "| 200 |" in page
    drawn = (tmp_path / "windows.svg").read_text()
    assert "small" in drawn and "large" in drawn and "hits that are reranked" in drawn
