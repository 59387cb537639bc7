"""docs/performance.md: made from what is committed, and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from connector.benchmark.plot import check_plot_path, plot_svg
from connector.errors import DataError, SettingsError
from connector.studies.performance_page import Notes, main, performance_page, read_notes, read_reports


def report(**ratios: float) -> dict[str, Any]:
    machine = {
        "cpu": "a processor <fast>",
        "device": "cpu",
        "threads": 2,
        "runtime": "torch",
        "precision": "float32-float16",
        "model": "smollm2-135m",
        "texts": "scifact",
        "tokens": 180,
        "plan": {"runtime": "torch", "weights": "not packed: no oneDNN", "batches": "each sequence by itself"},
        "load_average_at_start": 0.1,
        "python": "3.11.9",
        "versions": {"torch": "2.7"},
        "date": "2026-01-02",
        "command": "rh-connector bench DATA/scifact",
    }
    row = {"name": "warm_solo_20", "seconds": 0.2, "least": 0.1, "most": 0.4, "runs": 5}
    grown = [{**row, "layout": "late", "by": "window", "value": value} for value in (10, 1000)]
    grown += [{**row, "layout": "late", "by": "clients", "value": value, "seconds": 0.4 / value} for value in (1, 8)]
    cold = {**row, "layout": "solo", "by": "clients_cold", "window": 2, "tokens": 50}
    grown += [{**cold, "value": 1, "seconds": 0.06}, {**cold, "value": 8, "seconds": 0.05}]
    return {
        "machine": machine,
        "rows": [row, {**row, "name": "floor_solo_20", "operations": 2e9}],
        "ratios": ratios,
        "growth": grown,
        "memory_bytes": {"model_loaded": {"now": 10**9, "most": 2 * 10**9}},
        "cached_document": {"solo": {"bytes": 2_700_000, "tokens": 180}, "late": {}},
        "skipped": {"icr_100": "too long"},
    }


def test_the_committed_page_is_what_the_committed_reports_give(repository: Path) -> None:
    committed = (repository / "docs" / "performance.md").read_text(encoding="utf-8")
    folder = repository / "docs" / "performance"
    notes = read_notes(folder, repository / "docs" / "results")
    assert committed == performance_page(read_reports(folder), notes), "run: make docs"


def test_without_reports_the_page_says_so(tmp_path: Path) -> None:
    assert "There are no reports yet" in performance_page(read_reports(tmp_path))


def test_targets_are_judged_in_both_directions() -> None:
    found = {"warm_solo_over_cross_encoder": 0.2, "cold_over_icr": 0.5, "clients_8_over_1": 2.0, "http_part": 0.12}
    notes = Notes(
        {"warm_solo_over_cross_encoder": {"prediction": 0.3}},
        ["What follows."],
        {"megabytes": 256.4, "seconds_to_first_answer": 7},
    )
    page = performance_page([("bench-a", report(**found))], notes)
    assert "What follows.\n" in page
    assert "| slim serving environment, MB | <= 500 | <= 300 |  | 256 (aim) |" in page
    assert "| slim: process start to the first answer, s | <= 5 | <= 2 |  | 7 (**missed**) |" in page
    assert "| warm solo / MiniLM-L6 ONNX Runtime fp32 | <= 0.5 | <= 0.25 | 0.3 | 0.2 (aim) |" in page
    assert "| cold + tail, default layout / ICR's way | <= 0.35 | <= 0.2 |  | 0.5 (**missed**) |" in page
    assert "| 8 clients, warm, default layout: throughput / one client | >= 1.5 | >= 1.9 |  | 2 (aim) |" in page
    assert "| 8 clients, warm, late, of the growth table |  |  |  | 8 |" in page
    assert "| 8 clients, new short documents, solo, of the growth table |  |  |  | 1.2 |" in page
    assert "| seconds, by clients, 2 new documents of 50 tokens a request | 1 | 8 |" in page
    assert "| cold solo | 0.06 | 0.05 |" in page and "| warm late | 0.4 | 0.05 |" in page
    assert "| HTTP + JSON + fusion, part of a warm request | <= 15 % | <= 5 % |  | 12 % (must) |" in page
    assert "| warm late / MiniLM-L6 ONNX Runtime fp32 | <= 0.1 | <= 0.06 |  | not measured |" in page
    assert "| `warm_solo_20` | 0.2 (0.1 to 0.4) | 5 |  |" in page
    assert "2.0 GFLOP at 10 GFLOP/s" in page
    assert "| a cached document of 180 tokens, layout solo | 2,700.0 kB | 2,700.0 GB |" in page
    assert "| model loaded | 1.00 GB | 2.00 GB |" in page and "| weights | not packed: no oneDNN |" in page
    assert "No row `icr_100`: too long." in page
    assert "| seconds, by window | 10 | 1,000 |" in page


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, page = tmp_path / "reports", tmp_path / "page.md"
    folder.mkdir()
    (folder / "bench-a.json").write_text(json.dumps(report()))
    arguments = [str(folder), str(tmp_path / "results"), str(page)]
    assert main(arguments) == 0
    assert page.read_text() == performance_page([("bench-a", report())])
    (folder / "notes.json").write_text("{")
    assert main(arguments) == DataError.exit_code
    assert "notes.json cannot be read" in capsys.readouterr().err
    (folder / "bench-b.json").write_text("{}")
    assert main(arguments) == DataError.exit_code
    assert "it lacks machine, rows or ratios" in capsys.readouterr().err
    assert main([]) == 2


def test_a_picture_has_a_bar_for_each_row() -> None:
    measured = report()
    drawn = plot_svg(measured)
    rows = [*measured["rows"], *measured["growth"]]
    assert rows and all(f">{row['name']}</text>" in drawn for row in rows)
    assert drawn.count(" s</text>") == len(rows) and 'fill="none"' not in drawn.split("</defs>")[0]
    assert "a processor &lt;fast&gt;" in drawn and plot_svg(measured) == drawn
    with pytest.raises(SettingsError, match="a name that ends in .svg"):
        check_plot_path(Path("x.png"))
