"""``rh-connector evaluate``: does it help, on judged queries?"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from rich.console import Console

from connector.cli.context import Context, pass_context
from connector.cli.progress import progress
from connector.errors import SettingsError
from connector.settings import LAYOUTS

if TYPE_CHECKING:
    from connector.heads.head_sets import StaticHeads

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("evaluate")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--window", type=click.IntRange(1), help="First-stage hits that are reranked; default: rerank.window.")
@click.option("--limit", type=click.IntRange(1), help="At most so many queries, drawn with the seed.")
@click.option("--split", default="test", show_default=True, help="Which queries: test, train, dev.")
@click.option("--qrels", help="Another file of judgments, in the folder or here.")
@click.option("--relevant-from", type=click.IntRange(1), default=1, show_default=True, help="Lowest grade for MRR.")
@click.option(
    "--run", "run_file", help="A TREC run as first stage, in the folder or here; default: engine.kind's search."
)
@click.option("--by-rank", is_flag=True, help="Fuse with first-stage places, not scores, as a search pipeline does.")
@click.option("--layout", type=click.Choice(LAYOUTS), help="Default: backbone.layout.")
@click.option("--model", help="Default: backbone.model.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the drawn queries and the tests.")
@click.option("--timed", type=click.IntRange(0), default=3, show_default=True, help="Queries that are timed.")
@click.option("--bundle", type=_FILE, help="A router; default: router.bundle, or the one shipped for the model.")
@click.option("--left-out", type=_FILE, help="A router trained without this collection, for rows of its own.")
@click.option("--shuffle", is_flag=True, help="The LLM sees each window in random order (layout joint leaks it).")
@click.option("--layers", type=click.IntRange(1), help="Score heads of so many layers; default: of all.")
@click.option("--per-query", type=_FILE, help="Also write the measures of every query and row, tab separated.")
@click.option("--runs", type=click.Path(path_type=Path, file_okay=False), help="Also write a TREC run of each row.")
@click.option("--out", type=_FILE, help="Also write the report as JSON.")
@pass_context
def command(
    context: Context,
    folder: Path,
    window: int | None,
    limit: int | None,
    split: str,
    qrels: str | None,
    relevant_from: int,
    run_file: str | None,
    by_rank: bool,
    layout: str | None,
    model: str | None,
    seed: int,
    timed: int,
    bundle: Path | None,
    left_out: Path | None,
    shuffle: bool,
    layers: int | None,
    per_query: Path | None,
    runs: Path | None,
    out: Path | None,
) -> None:
    """Measure first stage, all heads (ICR), static heads and the router with its controls on a judged collection,
    each alone and fused with the first stage.

    FOLDER is laid out as BEIR does. Where engine.kind is a cluster, engine.index must hold its corpus. Head scores
    are kept on disk as they come: a run that was stopped goes on.
    """
    from connector.backbone.open_reader import open_reader
    from connector.evaluation.collections import load_collection
    from connector.evaluation.first_stage import first_stage, open_collection_engine
    from connector.evaluation.head_tables import SearchedQuery, gather, statistics_folder
    from connector.evaluation.provenance import Provenance, portable_command
    from connector.evaluation.report import Report, render_controls, render_table, report_text, report_to_json
    from connector.evaluation.routed_rows import routed_by, trained_on
    from connector.evaluation.row_files import write_per_query, write_runs
    from connector.evaluation.running import drawn_queries, rows, shuffled, window_recall
    from connector.evaluation.runs import read_run
    from connector.evaluation.timing import with_seconds
    from connector.routing.query_embedding import QueryEmbedding
    from connector.routing.selection import load_bundle, static_heads

    settings = context.settings(rerank__window=window, backbone__layout=layout, backbone__model=model)
    console = Console(stderr=True)
    collection = drawn_queries(load_collection(folder, split, qrels, relevant_from), limit, seed)
    if run_file is None:
        engine = open_collection_engine(collection, settings)
        windows = first_stage(collection, settings.rerank.window, engine=engine)
    else:
        path = folder / run_file if (folder / run_file).is_file() else Path(run_file)
        windows = first_stage(collection, settings.rerank.window, run=read_run(path))
    reader = open_reader(settings)
    depth = reader.runtime.shape.layers
    cut = None if layers is None or layers >= depth else layers
    static, source = static_heads(settings, reader)
    static = _within(static, cut, console)
    router = load_bundle(settings, reader, bundle)
    without = load_bundle(settings, reader, left_out) if left_out else None
    if without is not None and trained_on(without.metadata, collection.name):
        console.print(
            f"[yellow]{without.path.name} was trained on {collection.name}: its row left-out is none; train it with "
            f"--leave-out {collection.name}[/]"
        )
    for own in (router, without):
        if own is not None and cut is not None and own.metadata.deepest_layer >= cut:
            raise SettingsError(
                f"evaluate: --layers {cut}: {own.path.name} reads layer {own.metadata.deepest_layer}; give at least "
                f"{own.metadata.deepest_layer + 1}"
            )
    seen = shuffled(windows, seed) if shuffle else windows
    tables = gather(
        reader,
        (
            SearchedQuery(query, text, seen[query], collection.qrels[query], f"{collection.name}:{split}")
            for query, text in collection.queries.items()
        ),
        statistics_folder(settings.cache.path, reader),
        ("title", "text"),
        layers=cut,
        embed=router is not None or without is not None,
    )
    counted = list(progress(console, f"head scores, {collection.name}", tables, len(collection.queries)))
    if by_rank:
        counted = [replace(table, first_stage=np.full(len(table.ids), np.nan)) for table in counted]
    by_query = {table.query_id: table for table in counted}
    ways = []
    for own, name in ((router, "routed"), (without, "left-out")):
        if own is not None:
            made = own.metadata.embedding
            embedding = QueryEmbedding(made.form, made.layers, made.pooling, made.features)
            pool, scales = own.metadata.pool, own.metadata.scales
            controls = name == "routed"
            ways += routed_by(own, pool, scales, embedding, by_query, depth, seed, controls=controls, name=name)
    ranked = rows(
        collection,
        windows,
        counted,
        static,
        seed,
        ways=ways,
        every_head=cut is None,
        # The layout joint is there to show the published systems as they were published.
        static_rows=settings.backbone.layout != "joint",
    )
    found = [each.row for each in ranked]
    if timed:
        found = with_seconds(found, reader, router, collection, windows, timed)
    report = Report(
        collection=collection.name,
        queries=len(collection.queries),
        window=settings.rerank.window,
        rows=found,
        provenance=Provenance(
            model=settings.backbone.model,
            fingerprint=reader.fingerprint,
            layout=settings.backbone.layout,
            head_set=source,
            first_stage=_first_stage_name(settings.engine.kind, run_file, by_rank),
            qrels=collection.qrels_file,
            split=split,
            limit=limit,
            seed=seed,
            relevant_from=relevant_from,
            threads=reader.runtime.threads,
            device=reader.runtime.device,
            command=portable_command(sys.argv[1:], folder),
            router=None if router is None else f"{router.path.name} {router.digest[:12]}",
            left_out=None if without is None else f"{without.path.name} {without.digest[:12]}",
            shuffled=shuffle,
            layers=cut,
            precision=reader.runtime.precision,
        ),
        recall=window_recall(collection, windows),
    )
    value = report_to_json(report)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(report_text(value), encoding="utf-8")
    if per_query is not None:
        write_per_query(ranked, per_query)
    if runs is not None:
        write_runs(ranked, runs)
    if context.as_json:
        context.print_json(value)
    else:
        terminal = Console()
        terminal.print(render_table(report))
        routing = render_controls(report)
        if routing is not None:
            terminal.print(routing)


def _first_stage_name(kind: str, run_file: str | None, by_rank: bool) -> str:
    name = f"{kind} BM25" if run_file is None else Path(run_file).name
    return f"{name} (places)" if by_rank else name


def _within(static: StaticHeads | None, cut: int | None, console: Console) -> StaticHeads | None:
    """The static sets that need no head above the cut; which ones are left out is said."""
    if static is None or cut is None:
        return static
    sets = {name: own for name, own in static.sets.items() if all(layer < cut for layer, _ in own.heads)}
    left = sorted(static.sets.keys() - sets.keys())
    if left:
        console.print(f"no static row for {', '.join(left)}: their heads lie above --layers {cut}", markup=False)
    return replace(static, sets=sets)
