"""The times of one model, in a process of its own: ``python -m connector.studies.gpu.timing MODEL --out FILE``.

What ``rh-connector bench`` measures, with windows and clients for a GPU, in all layouts. Documents are those of
Python's documentation: a machine without collections measures it too.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from connector.benchmark.backbones import SharedBackbone
from connector.benchmark.growth import GrowthPlan, growth
from connector.benchmark.report import WindowSizes
from connector.benchmark.running import PARTS, Bench, Plan
from connector.benchmark.texts import read_texts
from connector.cli.own_process import keep_big_buffers
from connector.errors import SettingsError
from connector.evaluation.provenance import portable_command
from connector.sections import LAYOUTS, Settings
from connector.settings import load_settings

__all__ = ["SIZES", "TINY", "Sizes", "main"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is timed.

    Attributes:
        windows: small, middle and large ones: the small and the middle are compared with the peers.
        growth: windows of all layouts.
        clients: that ask at once.
        tokens: of a document.
        repeats: runs of each way.
    """

    windows: WindowSizes
    growth: tuple[int, ...]
    clients: tuple[int, ...]
    tokens: int
    repeats: int


SIZES = Sizes(WindowSizes(20, 100, 1000), (20, 50, 100, 200, 500, 1000), (1, 2, 4, 8, 16, 32, 64), 180, 10)
TINY = Sizes(WindowSizes(2, 4, 6), (2, 6), (1, 2), 24, 1)
"""Does it run at all?"""


def measured(settings: Settings, sizes: Sizes, command: str) -> dict[str, object]:
    """The benchmark's report, with ``growth`` by windows and clients."""
    backbone = SharedBackbone.open(settings)
    texts = read_texts(None, backbone.tokenizer, sizes.windows.large, sizes.tokens)
    bench = Bench(backbone, texts, Plan(sizes.windows, frozenset(PARTS), sizes.repeats, 60.0))
    report = bench.run(command)
    layouts = [layout for layout in LAYOUTS if layout != "joint"]
    small = read_texts(None, backbone.tokenizer, sizes.windows.small, sizes.tokens)
    report["growth"] = growth(
        bench, GrowthPlan(sizes.growth, sizes.clients, [small], layouts=layouts, most=sizes.windows.large)
    )
    return report


@click.command()
@click.argument("model")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="More settings.")
@click.option("--tiny", is_flag=True, help="Small windows of short documents, once.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="JSON with all figures.")
def main(model: str, device: str, assignments: tuple[str, ...], tiny: bool, out: Path) -> None:
    """Time MODEL."""
    keep_big_buffers()
    sizes = TINY if tiny else SIZES
    own = {
        "backbone.model": model,
        "backbone.device": device,
        # All clients at once, and the largest window.
        "serve.max_queue": str(4 * max(sizes.clients)),
        "serve.max_documents": str(max(1000, sizes.windows.large)),
    }
    pairs = [each.partition("=") for each in assignments]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise SettingsError(f"--set {wrong[0]}: give KEY=VALUE")
    settings = load_settings(os.devnull, {**own, **{name: value for name, _, value in pairs}}, environment={})
    report = measured(settings, sizes, portable_command(sys.argv[1:]))
    out.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
