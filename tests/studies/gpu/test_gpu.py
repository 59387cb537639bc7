"""The one command, on the CPU and as small as can be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from connector.checkpoints.checkpoint import Checkpoint
from connector.studies.gpu.__main__ import main
from connector.studies.gpu.card import describe, peak_of
from connector.studies.gpu.page import gpu_page
from connector.studies.gpu.plan import Options, steps_of
from connector.studies.gpu.steps import Step, run_steps
from tests.evaluation.folders import write_collection


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["--device", "cpu", "--tiny", *arguments])


def test_steps_are_listed_and_what_matters_most_comes_first(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_collection(data / "scifact")
    found = run("--steps", "--data", str(data), "--out", str(tmp_path / "out"))
    assert found.output.split() == [
        "machine",
        "tests",
        "times.smollm2-135m",
        "quality.smollm2-135m.scifact.4",
        "quality.smollm2-135m.scifact.8",
        "onnx.smollm2-135m",
    ]
    assert not (tmp_path / "out").exists()
    # Graphs only of models with a router for the layout solo.
    names = [step.name for step in steps_of(Options("cuda", ("owner/another", "qwen2.5-coder-1.5b")))]
    own = "qwen2.5-coder-1.5b"
    assert names == ["machine", "tests", "times.another", f"times.{own}", f"onnx.{own}"]


def test_what_cannot_be_is_refused_before_anything_runs(tmp_path: Path) -> None:
    found = run()
    assert found.exit_code == 2 and "--out" in found.output
    found = run("--out", str(tmp_path / "out"), "--step", "nothing")
    assert found.exit_code == 2 and "no step begins with nothing" in found.output
    write_collection(tmp_path / "data" / "scifact")
    whole = CliRunner().invoke(main, ["--device", "cpu", "--data", str(tmp_path / "data"), "--out", str(tmp_path)])
    assert whole.exit_code == 1 and "has no cisi, cosqa" in whole.output
    both = run("--model", "a/x", "--model", "b/x", "--out", str(tmp_path))
    assert both.exit_code == 1 and "called the same" in both.output


@pytest.mark.slow
def test_tests_that_were_all_skipped_are_no_result(tmp_path: Path) -> None:
    asked = ["--device", "cuda", "--tiny", "--step", "tests", "--out", str(tmp_path / "gpu")]
    found = CliRunner().invoke(main, asked)
    if torch.cuda.is_available():
        assert (tmp_path / "gpu" / "tests.json").is_file(), found.output
        return
    assert not (tmp_path / "gpu" / "tests.json").exists()
    told = (tmp_path / "gpu" / "tests.failed.txt").read_text()
    assert "tests marked gpu were skipped: torch sees no GPU" in told


@pytest.mark.slow
def test_the_machine_and_the_quality_of_a_small_model(smollm2: Checkpoint, tmp_path: Path) -> None:
    write_collection(tmp_path / "data" / "scifact")
    asked = ("--data", str(tmp_path / "data"), "--out", str(tmp_path / "gpu"), "--step", "machine")
    found = run(*asked, "--step", "quality.smollm2-135m.scifact.4", "--set", "backbone.dtype=float32")
    assert found.exit_code == 0, found.output
    record = json.loads((tmp_path / "gpu" / "quality.smollm2-135m.scifact.4.json").read_text())["found"]
    assert record["queries"] == 2 and record["provenance"]["layout"] == "solo"
    by_name = {row["name"]: row for row in record["rows"]}
    page = (tmp_path / "gpu.md").read_text()
    gain = by_name["routed+first-stage"]["nDCG@10"] - by_name["first-stage"]["nDCG@10"]
    assert f"| smollm2-135m, solo, 4 | scifact | routed+first-stage | 2 | {gain:+.4f} |" in page
    assert "| device | cpu |" in page


@pytest.mark.bench
def test_the_times_of_a_small_model(smollm2: Checkpoint, tmp_path: Path) -> None:
    found = run("--out", str(tmp_path / "gpu"), "--step", "times")
    assert found.exit_code == 0, found.output
    report = json.loads((tmp_path / "gpu" / "times.smollm2-135m.json").read_text())["found"]
    rows = {row["name"] for row in report["rows"]}
    assert {"warm_solo_4", "cold_late_4", "icr_4", "cross_encoder_onnx_4", "clients_8_2"} <= rows
    assert {(row["layout"], row["value"]) for row in report["growth"] if row["by"] == "window"} == {
        (layout, size) for layout in ("solo", "late") for size in (2, 6)
    }
    assert report["operations"]["late"]["4"]["encode"] > report["operations"]["late"]["2"]["encode"] > 0
    page = (tmp_path / "gpu.md").read_text()
    assert "ICR's way over cached" in page and "| smollm2-135m, late |" in page


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("Tesla T4", None),
    ],
)
def test_peaks_are_those_of_the_whole_card(name: str, teraflops: float | None) -> None:
    assert peak_of(name) == (None if teraflops is None else teraflops * 1e12)


def test_the_machine_is_told() -> None:
    found = describe("cpu")
    assert found["device"] == "cpu" and {"torch", "onnxruntime"} <= found["versions"].keys()


def report(**seconds: float) -> dict[str, Any]:
    """What the times of a model look like, with these rows of windows of 100 documents of 180 tokens."""
    rows = [{"name": name, "seconds": value} for name, value in seconds.items()]
    rows.append({"name": "gemm_plain_18000", "seconds": 1.0, "operations": 8e14})
    return {
        "machine": {"device": "NVIDIA H100 80GB HBM3", "tokens": 180},
        "rows": rows,
        "growth": [{"name": "x", "layout": "late", "by": "clients", "value": 64, "seconds": 0.001}],
        "operations": {
            layout: {"20": {"encode": 1e13, "read": 1e11}, "100": {"encode": 5e13, "read": 5e11}}
            for layout in ("solo", "late")
        },
        "cached_document": {"solo": {}, "late": {"bytes": 5_000_000.0}},
        "stand_in_heads": ["late"],
        "skipped": {"icr_20": "too long"},
    }


def test_the_page_says_what_was_met_and_what_was_missed(tmp_path: Path) -> None:
    assert gpu_page(tmp_path) is None
    machine = {"device": "NVIDIA H100", "cpu": "x", "versions": {}, "memory_total": 80e9, "memory_free": 79e9}
    fast = {"warm_late_100": 0.02, "cold_late_100": 0.2, "encode_late_100": 0.125, "icr_100": 0.5}
    slow = {"warm_late_100": 0.03, "cold_late_100": 0.5, "encode_late_100": 0.25, "icr_100": 0.12}
    steps = [
        Step("machine", lambda scratch: {**machine, "peak": 1e15, "cards": []}),
        Step("times.qwen2.5-coder-1.5b", lambda scratch: report(**fast)),
        Step("times.other-1.5b", lambda scratch: report(**slow)),
        Step("times.small", lambda scratch: report(**slow)),
        Step("tests", lambda scratch: {"tests": 10, "failures": 1, "errors": 1, "skipped": 0}),
    ]
    run_steps(steps, tmp_path, {}, lambda told: None)
    (tmp_path / "onnx.small.failed.txt").write_text("no CUDA")
    page = gpu_page(tmp_path)
    assert page is not None
    lines = page.splitlines()
    named = "late (stand-in heads)"
    assert f"| qwen2.5-coder-1.5b, {named} | 20.0 ms | 40.0% | 50.0% | 25.0x | 2.5x (missed) |" in lines
    missed = "30.0 ms (missed) | 20.0% (missed) | 25.0% | 4.0x (missed) | 0.2x (missed)"
    assert f"| other-1.5b, {named} | {missed} |" in lines
    # Of another model only the ratio is asked for.
    assert f"| small, {named} | 30.0 ms | 20.0% | 25.0% | 4.0x (missed) | 0.2x (missed) |" in lines
    assert f"| qwen2.5-coder-1.5b, solo | {' | '.join(['not measured'] * 5)} |" in lines
    assert "| qwen2.5-coder-1.5b, late, 100 | 0.2000 | 0.0200 | 50,000 | 500 | 144,000 | 400.0 | 5,000.0 |" in lines
    assert "| small, late | clients | 64 | 1.00 |" in lines
    assert "Tests marked `gpu`: 10, of which 2 failed and 0 were skipped." in lines
    assert "- `onnx.small`: see `onnx.small.failed.txt`." in lines
