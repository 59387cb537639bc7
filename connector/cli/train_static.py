"""``rh-connector train --static``: head statistics, then one fixed set of heads for each read-out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from connector.cli.context import Context
from connector.cli.train_tables import portable, tables_of
from connector.settings import Settings
from connector.training.sources import TrainSource


def find_static(
    context: Context,
    settings: Settings,
    sources: Sequence[TrainSource],
    *,
    criterion: Any,
    size: int | None,
    queries: int,
    seed: int,
    out: Path | None,
) -> None:
    """Find the heads that rank best by themselves, and store them."""
    from connector.backbone.open_reader import open_reader
    from connector.heads.head_sets import HeadSet, StaticHeads
    from connector.heads.readouts import READOUTS, ReadOut
    from connector.training.static_heads import best_weight, find_heads

    reader = open_reader(settings)
    console = Console(stderr=True)
    started = time.monotonic()
    found, used = tables_of(settings, reader, sources, queries, seed, console)
    sets: dict[ReadOut, HeadSet] = {}
    means: dict[ReadOut, float] = {}
    weights: dict[str, float] = {}
    for readout in READOUTS:
        sets[readout], means[readout] = find_heads(found, readout, criterion, size=size)
        weights[readout], _ = best_weight(found, readout, None)
    static_heads = StaticHeads(
        settings.backbone.model,
        reader.fingerprint,
        settings.backbone.layout,
        {str(readout): entry for readout, entry in sets.items()},
        weights,
        {
            "collections": used,
            "criterion": criterion,
            "window": settings.rerank.window,
            "seed": seed,
            "nDCG@10 on these queries": {readout: round(mean, 4) for readout, mean in means.items()},
            "command": portable(),
        },
    )
    out = out or Path(f"{Path(settings.backbone.model).name}.{settings.backbone.layout}.json")
    static_heads.save(out)
    if context.as_json:
        context.print_json({"file": str(out), "nDCG@10": means, "seconds": round(time.monotonic() - started, 1)})
        return
    table_out = Table("read-out", "heads (layer, head)", "first-stage weight", "nDCG@10 on these queries", box=None)
    for readout, entry in sets.items():
        heads = " ".join(f"({layer},{head})" for layer, head in entry.heads)
        table_out.add_row(readout, heads, f"{entry.weight:g}", f"{means[readout]:.3f}")
    Console().print(table_out)
    click.echo(f"Written to {out}. Use it with: --set router.bundle={out}")
