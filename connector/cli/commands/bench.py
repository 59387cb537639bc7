"""``rh-connector bench``: speed against peers on this machine, as ratios."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, cast

import click
from rich.console import Console
from rich.table import Table

from connector.cli.context import Context, pass_context

_FILE = click.Path(path_type=Path, dir_okay=False)
_PARTS = ("warm", "cold", "router", "cross-encoder", "icr", "floor", "http", "large")
_GROWTH_WINDOWS = (10, 20, 50, 100, 300, 1000)
_GROWTH_TOKENS = (50, 100, 180, 500, 1000)
_GROWTH_CLIENTS = (1, 2, 4, 8)


@click.command("bench")
@click.argument("folder", required=False, type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option(
    "--only", "parts", type=click.Choice(_PARTS), multiple=True, help="Only these parts; may be given again."
)
@click.option(
    "--window",
    "windows",
    type=click.IntRange(1),
    nargs=3,
    metavar="SMALL MIDDLE LARGE",
    help="Documents of a window; LARGE for the layout late only.  [default: 20 100 1000]",
)
@click.option("--tokens", type=click.IntRange(8), help="Length of each document.  [default: 180]")
@click.option("--repeats", type=click.IntRange(1), help="Runs of each way, in turns.  [default: 5]")
@click.option(
    "--at-most", type=click.FloatRange(0), default=20.0, show_default=True, help="Seconds for all runs of one way."
)
@click.option("--growth", "with_growth", is_flag=True, help="Also by window, tokens and clients.")
@click.option("--quick", is_flag=True, help="Windows of 4, 8 and 12 short documents, once: does it run at all?")
@click.option("--out", type=_FILE, help="Also write the report as JSON.")
@click.option("--plot", type=_FILE, help="Also draw it, as SVG.")
@pass_context
def command(
    context: Context,
    folder: Path | None,
    parts: tuple[str, ...],
    windows: tuple[int, int, int] | None,
    tokens: int | None,
    repeats: int | None,
    at_most: float,
    with_growth: bool,
    quick: bool,
    out: Path | None,
    plot: Path | None,
) -> None:
    """Time reranking against a small cross-encoder, ICR's way and the machine's own floor, in one run.

    Documents and queries are those of FOLDER (a collection as BEIR lays it out), else of Python's documentation. Each
    way is run in turn with the others; medians are compared. Model, layout and number format come from the settings:
    --set backbone.dtype=float32. Threads: OMP_NUM_THREADS, for every peer. Some minutes; close what else runs.
    """
    from connector.benchmark.backbones import SharedBackbone
    from connector.benchmark.growth import GrowthPlan, growth
    from connector.benchmark.plot import check_plot_path, write_plot
    from connector.benchmark.report import WindowSizes
    from connector.benchmark.running import PARTS, Bench, Part, Plan
    from connector.benchmark.texts import read_texts
    from connector.errors import SettingsError
    from connector.evaluation.provenance import portable_command
    from connector.evaluation.text_lines import write_text

    if plot is not None:
        check_plot_path(plot)
    small, middle, large = windows or ((4, 8, 12) if quick else (20, 100, 1000))
    if not small < middle < large:
        raise SettingsError(f"--window {small} {middle} {large}: give three sizes, each larger than the one before")
    length = tokens or (24 if quick else 180)
    plan = Plan(
        WindowSizes(small, middle, large),
        frozenset(cast("tuple[Part, ...]", parts) or PARTS),
        repeats or (1 if quick else 5),
        at_most,
    )
    console = Console(stderr=True)
    settings = context.settings()
    if settings.cascade.model is not None:
        click.echo(f"cascade.model = {settings.cascade.model} is left out: the first model is timed alone", err=True)
    with console.status("loading the model") as status:

        def progress(name: str) -> None:
            status.update(name)

        backbone = SharedBackbone.open(settings)
        needed = large if with_growth or "large" in plan.parts else middle
        bench = Bench(backbone, read_texts(folder, backbone.tokenizer, needed, length), plan, progress)
        report = bench.run(portable_command(sys.argv[1:], folder))
        if with_growth:
            lengths = (12, 24) if quick else _GROWTH_TOKENS
            report["growth"] = growth(
                bench,
                GrowthPlan(
                    (small, middle, large) if quick else [size for size in _GROWTH_WINDOWS if size <= large],
                    (1, 2) if quick else _GROWTH_CLIENTS,
                    [read_texts(folder, backbone.tokenizer, small, each) for each in lengths],
                ),
            )
    if out is not None:
        write_text(out, [json.dumps(report, indent=1, allow_nan=False) + "\n"])
    if plot is not None:
        write_plot(report, plot)
    if context.as_json:
        context.print_json(report)
    else:
        for table in _tables(report):
            Console().print(table)


def _tables(report: dict[str, Any]) -> list[Table]:
    machine = report["machine"]
    title = f"{machine['model']}, {machine['precision']}, {machine['threads']} threads, {machine['cpu']}"
    rows = Table("row", title=title)
    for name in ("seconds", "least", "most", "runs"):
        rows.add_column(name, justify="right")
    for row in [*report["rows"], *report.get("growth", ())]:
        shown = (f"{row[name]:.4g}" for name in ("seconds", "least", "most"))
        rows.add_row(row["name"], *shown, str(row["runs"]))
    ratios = Table("ratio", title="ratios of medians")
    ratios.add_column("", justify="right")
    for name, value in report["ratios"].items():
        ratios.add_row(name, f"{value:.3f}")
    memory = Table("memory", title="memory")
    memory.add_column("kB", justify="right")
    for layout, held in report["cached_document"].items():
        if held:
            memory.add_row(
                f"a cached document of {held['tokens']:.0f} tokens, {layout}", f"{held['bytes'] / 1e3:,.1f}"
            )
    for when, used in report["memory_bytes"].items():
        memory.add_row(f"process, {when.replace('_', ' ')}", f"{used['now'] / 1e3:,.0f}")
    return [rows, ratios, memory]
