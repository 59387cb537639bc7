"""``rh-connector train``: head statistics, then the heads that rank best."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import click
from rich.console import Console
from rich.table import Table

from connector.cli.context import Context, pass_context
from connector.cli.progress import progress
from connector.errors import SettingsError


@click.command("train")
@click.argument("collections", nargs=-1, required=True, metavar="FOLDER[:SPLIT]...")
@click.option("--static", is_flag=True, help="Find static head sets (the only kind so far).")
@click.option("--criterion", type=click.Choice(["ndcg", "mass", "contrast"]), default="ndcg", show_default=True)
@click.option("--size", type=click.IntRange(1), help="Heads of a set; default: as many as rank best, up to 16.")
@click.option("--queries", type=click.IntRange(1), default=50, show_default=True, help="Queries of each collection.")
@click.option("--window", type=click.IntRange(2), help="First-stage hits of each query; default: rerank.window.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which queries are drawn.")
@click.option("--layout", type=click.Choice(["block", "late", "joint"]), help="Default: backbone.layout.")
@click.option("--model", help="Default: backbone.model.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Default: MODEL.LAYOUT.json here.")
@pass_context
def command(
    context: Context,
    collections: tuple[str, ...],
    static: bool,
    criterion: str,
    size: int | None,
    queries: int,
    window: int | None,
    seed: int,
    layout: str | None,
    model: str | None,
    out: Path | None,
) -> None:
    """Find the heads that rank best, on TRAIN queries of judged collections (BEIR folders; SPLIT is train unless
    given), and store them with the model's fingerprint.

    Every head is scored once for every query and kept on disk: a run that was stopped goes on where it was, and
    other criteria and sizes need no LLM. Use the file with --set router.bundle=FILE.
    """
    if not static:
        raise SettingsError("train: give --static; routers cannot be trained by this version yet")
    from connector.backbone.opening import open_reader
    from connector.evaluation.collections import load_collection
    from connector.evaluation.first_stage import first_stage, open_collection_engine
    from connector.evaluation.running import drawn_queries
    from connector.heads.head_sets import HeadSet, StaticHeads
    from connector.heads.readouts import READOUTS, ReadOut
    from connector.routing.detection import Criterion, TrainQuery, best_weight, find_heads
    from connector.routing.statistics import gather, statistics_folder

    settings = context.settings(rerank__window=window, backbone__layout=layout, backbone__model=model)
    reader = open_reader(settings)
    console = Console(stderr=True)
    found: list[TrainQuery] = []
    used: list[dict[str, Any]] = []
    started = time.monotonic()
    for spec in collections:
        folder, _, split = spec.rpartition(":") if ":" in spec and not Path(spec).exists() else (spec, "", "train")
        if split == "test":
            console.print(f"[yellow]{spec}: heads found on test queries cannot be measured on them[/]")
        collection = drawn_queries(load_collection(folder, split=split), queries, seed)
        engine = open_collection_engine(collection, settings)
        windows = first_stage(collection, settings.rerank.window, engine=engine)
        # A window without a relevant hit teaches nothing: it is not even read.
        usable = [q for q, hits in windows.items() if any(collection.qrels[q].get(hit.id, 0) > 0 for hit in hits)]
        tables = gather(
            reader,
            ((query, collection.queries[query], windows[query]) for query in usable),
            statistics_folder(settings.cache.path, reader),
            ("title", "text"),
        )
        for table in progress(console, f"head scores, {collection.name}:{split}", tables, len(usable)):
            query = TrainQuery.of(collection.name, table, collection.qrels[table.query_id])
            if query is not None:
                found.append(query)
        used.append(
            {"collection": collection.name, "split": split, "drawn": len(collection.queries), "used": len(usable)}
        )
    sets: dict[ReadOut, HeadSet] = {}
    means: dict[ReadOut, float] = {}
    weights: dict[str, float] = {}
    for readout in READOUTS:
        sets[readout], means[readout] = find_heads(found, readout, cast(Criterion, criterion), size=size)
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
            "command": f"rh-connector train --static {' '.join(map(_name, collections))} --queries {queries} "
            f"--seed {seed} --criterion {criterion} --model {_name(settings.backbone.model)} "
            f"--layout {settings.backbone.layout}",
        },
    )
    out = out or Path(f"{_name(settings.backbone.model)}.{settings.backbone.layout}.json")
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


def _name(path: str) -> str:
    """The last part of a path, so that no folder of this machine is written into the file."""
    return Path(path).name if "/" in path else path
