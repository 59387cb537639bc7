"""Tables beside the speed: right values, only of the same queries, nothing where there is nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from connector.errors import DataError
from connector.studies.quality_tables import quality_tables, read_quality


def evaluated(*values: float, first: float = 0.5) -> dict[str, Any]:
    per_query = {f"q{at}": value for at, value in enumerate(values)}
    return {
        "queries": len(values),
        "window": 20,
        "rows": [
            {"name": "first-stage", "readout": None, "nDCG@10": first, "per_query": dict.fromkeys(per_query, first)},
            {"name": "static+first-stage", "readout": "query", "nDCG@10": 0.1},
            {"name": "routed+first-stage", "readout": "pool", "per_query": per_query},
        ],
    }


def swept(layout: str, collection: str, *fused: float, queries: int = 100) -> dict[str, Any]:
    sizes = (20, 1000)[: len(fused)]
    row = {"queries": queries, "first_stage": 0.4, "p_value": 0.04, "milliseconds": 71.6}
    rows = [{**row, "window": size, "fused": value} for size, value in zip(sizes, fused, strict=True)]
    return {"layout": layout, "collection": collection, "threads": 2, "rows": rows}


def written(folder: Path, **reports: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, report in reports.items():
        (folder / f"{name.replace('__', '-')}.json").write_text(json.dumps(report))
    return folder


def tables(tmp_path: Path) -> str:
    speed = {
        "machine": {"runtime": "torch", "precision": "float32-float16", "tokens": 180, "threads": 2},
        "rows": [{"name": "warm_solo_20", "seconds": 0.2}],
        "growth": [
            {"by": by, "layout": layout, "value": 20, "seconds": seconds}
            for by, layout, seconds in (("window", "solo", 1), ("tokens", "late", 2), ("window", "late", 0.0716))
        ],
    }
    return "\n".join(quality_tables(read_quality(tmp_path / "performance", tmp_path / "results"), [speed]))


def test_number_formats_against_the_reference(tmp_path: Path) -> None:
    formats = tmp_path / "results" / "formats"
    written(tmp_path / "results", scifact=evaluated(0.9, 0.9))
    written(formats / "torch-float32", scifact=evaluated(0.5, 0.7), cosqa=evaluated(0.3))
    assert tables(tmp_path) == ""
    written(formats / "torch-bfloat16", scifact=evaluated(0.53, 0.71), cosqa=evaluated(0.3, first=0.4))
    written(formats / "onnx-int8", scifact=evaluated(0.5, 0.6752))
    page = tables(tmp_path)
    assert "|  | scifact (2) | cosqa (1) | dl19 | cached, solo | new, solo |" in page
    assert "| torch float32 | 0.6000 | 0.3000 |  | 0.2 |  |" in page
    # Other queries are not compared.
    assert "| torch bfloat16 | 0.6200 (+0.0200; +0.0100 to +0.0300) |  |  |  |  |" in page
    assert "| onnx int8 | 0.5876 (-0.0124; -0.0248 to +0.0000) |  |  |  |  |" in page
    assert "Windows" not in page


def test_a_format_of_something_else(tmp_path: Path) -> None:
    other = evaluated(0.5)
    del other["rows"][2]
    for name in ("torch-float32", "onnx-int8"):
        written(tmp_path / "results" / "formats" / name, dl19=other)
    with pytest.raises(DataError, match="no row routed"):
        tables(tmp_path)


def test_windows_of_the_layout_late(tmp_path: Path) -> None:
    written(
        tmp_path / "performance",
        windows__late__a=swept("late", "a", 0.5, 0.6),
        windows__late__b=swept("late", "b", 0.7),
        windows__solo__c=swept("solo", "c", 0.9),
        bench__x=swept("late", "c", 0.3),
    )
    page = tables(tmp_path)
    assert "| a (100 queries) | 0.4000 | 0.5000* | 0.6000* |" in page
    assert "| b (100 queries) | 0.4000 | 0.7000* |  |" in page and "| c (" not in page
    # Of the collections that have all windows.
    assert "| mean of 1 | 0.4000 | 0.5000 | 0.6000 |" in page
    assert "| milliseconds, cached documents of 180 tokens, 2 threads |  | 72 |  |" in page


def test_a_file_that_is_no_report(tmp_path: Path) -> None:
    written(tmp_path / "performance", windows__late__a={"layout": "late"})
    with pytest.raises(DataError, match="has no rows"):
        tables(tmp_path)
