"""``rh-connector bench`` with the real LLM, peers and server, on small windows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from connector.benchmark.report import RATIOS
from connector.checkpoints.checkpoint import Checkpoint
from connector.cli import cli
from connector.errors import SettingsError

pytestmark = pytest.mark.bench


@pytest.fixture(scope="module")
def quick(smollm2: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, str]:
    """The report, the picture and the printed tables of one quick run."""
    folder = tmp_path_factory.mktemp("bench")
    out, plot = folder / "new" / "report.json", folder / "report.svg"
    found = CliRunner().invoke(
        cli, ["bench", "--quick", "--growth", "--out", str(out), "--plot", str(plot)], catch_exceptions=False
    )
    assert found.exit_code == 0, found.output
    return json.loads(out.read_text()), plot.read_text(), found.stdout


def test_every_row_has_a_median_within_its_spread(quick: tuple[dict[str, Any], str, str]) -> None:
    report, _, _ = quick
    rows = {row["name"]: row for row in [*report["rows"], *report["growth"]]}
    assert len(rows) == len(report["rows"]) + len(report["growth"])
    for row in rows.values():
        assert 0 < row["least"] <= row["quarter"] <= row["seconds"] <= row["three_quarters"] <= row["most"]
    stages = ("warm", "tail", "tokenize", "fusion", "cold", "encode", "floor")
    wanted = {f"{stage}_{layout}_4" for stage in stages for layout in ("solo", "late")}
    wanted |= {f"cross_encoder_{kind}_{size}" for kind in ("torch", "onnx", "onnx_int8") for size in (4, 8)}
    wanted |= {"warm_late_12", "router", "icr_4", "icr_8", "http_4", "http_overhead_4", "clients_1_4", "clients_8_4"}
    assert wanted <= rows.keys()
    # A part is timed within its whole; two wholes, each run once, may come out either way on a busy machine.
    for part, whole in (("tail", "warm"), ("fusion", "warm"), ("encode", "cold")):
        assert rows[f"{part}_solo_4"]["seconds"] < rows[f"{whole}_solo_4"]["seconds"]


def test_every_ratio_is_that_of_its_rows(quick: tuple[dict[str, Any], str, str]) -> None:
    report, _, _ = quick
    seconds = {row["name"]: row["seconds"] for row in report["rows"]}
    named = {name.format(s=4, m=8, l=12) for name in RATIOS}
    assert report["ratios"].keys() == named == report["ratios_of"].keys()
    for name, value in report["ratios"].items():
        over, under = (sum(seconds[row] for row in report["ratios_of"][name][side]) for side in ("over", "under"))
        assert value > 0
        assert value == pytest.approx(over / under)


def test_machine_memory_and_picture(quick: tuple[dict[str, Any], str, str]) -> None:
    report, picture, printed = quick
    machine = report["machine"]
    assert machine["threads"] >= 1 and machine["tokens"] == 24
    assert machine["command"].split()[0] == "rh-connector"
    assert machine["runtime"] == machine["plan"]["runtime"] == "torch"
    assert {"weights", "layers", "batches", "operations"} <= machine["plan"].keys()
    assert 0 < report["cached_document"]["late"]["bytes"] < report["cached_document"]["solo"]["bytes"]
    assert report["memory_bytes"]["at_the_end"]["now"] > 10**8
    assert all(row["name"] in picture for row in report["rows"])
    assert "warm_solo_over_cross_encoder" in printed


def test_growth_goes_by_window_tokens_and_clients(quick: tuple[dict[str, Any], str, str]) -> None:
    report, _, _ = quick
    values = {(row["layout"], row["by"], row["value"]) for row in report["growth"]}
    # The layout solo stops at the middle window.
    assert {value for layout, by, value in values if (layout, by) == ("solo", "window")} == {4, 8}
    assert {value for layout, by, value in values if (layout, by) == ("late", "window")} == {4, 8, 12}
    for kind in ("clients", "clients_cold"):
        assert {(layout, value) for layout, by, value in values if by == kind} == {
            (layout, value) for layout in ("solo", "late") for value in (1, 2)
        }
    assert {value for layout, by, value in values if by == "tokens"} == {12, 24}


def test_one_part_alone(smollm2: Checkpoint) -> None:
    found = CliRunner().invoke(cli, ["--json", "bench", "--quick", "--only", "router"], catch_exceptions=False)
    report = json.loads(found.stdout)
    assert [row["name"] for row in report["rows"]] == ["router"]
    assert report["ratios"] == {}


def test_windows_and_pictures_that_cannot_be() -> None:
    for arguments, message in (
        (["--window", "8", "4", "12"], "each larger than the one before"),
        (["--plot", "x.png"], "ends in .svg"),
    ):
        found = CliRunner().invoke(cli, ["bench", *arguments])
        assert isinstance(found.exception, SettingsError)
        assert message in str(found.exception)
