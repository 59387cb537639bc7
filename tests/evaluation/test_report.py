"""Reports: the JSON of design.md, its way back, the table, and what is known of the machine."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from connector.errors import DataError
from connector.evaluation.measures import MEASURES, per_query
from connector.evaluation.provenance import Provenance, portable_command
from connector.evaluation.report import (
    Report,
    make_system,
    render_table,
    report_from_json,
    report_text,
    report_to_json,
)

QRELS = {"q1": {"a": 1}, "q2": {"b": 1}, "q3": {"c": 1}}


def make_report(collection: str = "small", layout: str = "late", **changes: Any) -> Report:
    """A report whose heads are right where the first stage is not."""
    first = per_query(MEASURES, QRELS, {"q1": ["x", "a"], "q2": ["b", "x"], "q3": []})
    after = per_query(MEASURES, QRELS, {"q1": ["a", "x"], "q2": ["b", "x"], "q3": []})
    known: dict[str, Any] = {
        "model": "smollm2-135m",
        "fingerprint": "0123456789abcdef",
        "layout": layout,
        "head_set": "smollm2-135m.late.json",
        "first_stage": "embedded BM25",
        "qrels": "qrels.tsv",
        "split": "test",
        "limit": None,
        "seed": 0,
        "relevant_from": 1,
        "threads": 2,
        "command": "rh-connector --json evaluate DATA/small",
        "date": "2026-01-31",
        "cpu": "a processor, 2 threads",
        "versions": {"rh-connector": "0.1.0"},
        "python": "3.11.1",
    }
    systems = [
        make_system("first-stage", first),
        replace(make_system("all", first, first, readout="icr"), seconds_per_query=1.5, seconds_cached=0.25),
        replace(
            make_system("static", after, first, readout="icr", heads=1, head_list=[(18, 6)]), seconds_per_query=0.5
        ),
        make_system("static+first-stage", after, first, readout="icr", heads=1, head_list=[(18, 6)], weight=0.5),
    ]
    return Report(collection, 3, 20, systems, Provenance(**(known | changes)))


def test_json_is_what_the_design_says() -> None:
    value = report_to_json(make_report())
    assert [value[key] for key in ("collection", "queries", "window")] == ["small", 3, 20]
    assert [row["name"] for row in value["rows"]] == ["first-stage", "all", "static", "static+first-stage"]
    static = value["rows"][2]
    assert static["nDCG@10"] == pytest.approx(2 / 3, abs=1e-6)
    assert static["MRR@10"] == pytest.approx(2 / 3, abs=1e-6)
    assert static["difference"] == pytest.approx(0.123023, abs=1e-6)
    assert static["p_value"] == 1.0, "one query of three cannot be significant"
    assert len(static["interval"]) == 2
    assert (static["readout"], static["head_list"], static["seconds_per_query"]) == ("icr", [[18, 6]], 0.5)
    assert value["rows"][0]["difference"] is None
    assert value["provenance"]["head_set"] == "smollm2-135m.late.json"


def test_json_comes_back() -> None:
    value = json.loads(json.dumps(report_to_json(make_report()), allow_nan=False))
    assert report_to_json(report_from_json(value, "here")) == value


def test_what_a_router_s_rows_have_besides_comes_back() -> None:
    report = make_report(router="r.onnx 0123", left_out="l.onnx 4567", shuffled=True, layers=20)
    system = report.systems[2]
    values = {"nDCG@10": {"q1": 1.0, "q2": 0.25, "q{}3": 0.123456}, "MRR@10": {"q1": 1.0, "q2": 0.0, "q{}3": 0.0}}
    other = {"q1": 0.5, "q2": 0.25, "q{}3": 0.0}
    route = {"heads": 7.5, "deepest_layer": 3.0, "first_stage_gate": 1.0, "lowest_gate": 0.5, "highest_gate": 1.5}
    routed = make_system("routed", values, values, readout="pool", against={"permuted": other}, route=route)
    whole = replace(report, systems=[*report.systems, routed], recall=0.75)
    value = report_to_json(whole)
    text = report_text(value)
    assert json.loads(text) == value
    assert '"per_query": { "q1": 1.0, "q2": 0.25,' in text, "one line for the queries of a system"
    assert report_to_json(report_from_json(json.loads(text), "here")) == value
    shown = value["rows"][-1]
    assert shown["against_permuted"]["difference"] == pytest.approx((0.5 + 0 + 0.123456) / 3, abs=1e-6)
    assert "against_static" not in shown and shown["route"] == route
    assert shown["per_query"] == {"q1": 1.0, "q2": 0.25, "q{}3": 0.1235}
    assert (value["recall"], value["provenance"]["layers"]) == (0.75, 20)
    assert system.against == {}


def test_reports_from_before_there_was_a_router_are_read() -> None:
    value = report_to_json(make_report())
    del value["recall"]
    second = ("second_model", "second_router", "second_hits")
    for key in ("router", "left_out", "shuffled", "layers", "precision", *second, "router_embedder"):
        del value["provenance"][key]
    for row in value["rows"]:
        for key in ("route", "per_query"):
            del row[key]
    report = report_from_json(value, "old.json")
    assert report.recall is None and report.provenance.router is None and not report.provenance.shuffled
    assert report.provenance.second_model is None and report.provenance.readers == "smollm2-135m"
    assert all(not system.per_query and not system.route and not system.against for system in report.systems)


def test_readers_are_told_in_words() -> None:
    told = make_report(router_embedder="bge-small-en-v1.5 828e1496d7fa").provenance
    assert told.readers == "smollm2-135m with bge-small-en-v1.5"
    cascade = replace(told, second_model="larger", second_hits=5)
    assert cascade.readers == "smollm2-135m with bge-small-en-v1.5 and, of its first 5, larger"


@pytest.mark.parametrize("missing", ["collection", "rows", "provenance"])
def test_a_report_with_a_part_missing_is_refused(missing: str) -> None:
    value = report_to_json(make_report())
    del value[missing]
    with pytest.raises(DataError, match=f"x.json is not an evaluation report .*{missing}"):
        report_from_json(value, "x.json")


def test_a_report_needs_its_first_stage_and_whole_provenance() -> None:
    value = report_to_json(make_report())
    with pytest.raises(DataError, match="x.json has no row first-stage"):
        report_from_json(value | {"rows": value["rows"][1:]}, "x.json")
    del value["provenance"]["date"]
    with pytest.raises(DataError, match="provenance has no date"):
        report_from_json(value, "x.json")


def test_the_table_names_every_row() -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(render_table(make_report()))
    for text in ("3 queries", "first-stage", "all (icr)", "static+first-stage (icr)", "0.6667", "+0.1230"):
        assert text in out.getvalue()


def test_the_machine_is_described() -> None:
    known = make_report().provenance.to_json()
    for key in ("date", "cpu", "versions", "python", "device"):
        del known[key]
    made = Provenance(**known)
    assert "threads" in made.cpu
    assert {"rh-connector", "numpy"} <= made.versions.keys()
    assert len(made.date) == 10


def test_a_published_command_names_no_folder_of_the_machine(tmp_path: Path) -> None:
    collection = tmp_path / "sets" / "dl19"
    arguments = [
        "--config",
        "/dev/null",
        "evaluate",
        str(collection),
        "--run",
        f"{collection}/runs/BM25.trec",
        f"--out={tmp_path}/o.json",
        "-n",
        "5",
    ]
    assert portable_command(arguments, collection) == (
        "rh-connector --config /dev/null evaluate DATA/dl19 --run DATA/dl19/runs/BM25.trec --out=o.json -n 5"
    )
