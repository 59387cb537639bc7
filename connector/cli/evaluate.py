"""``rh-connector evaluate``: does it help, on judged queries?"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

from connector.cli.context import Context, pass_context
from connector.cli.progress import progress


@click.command("evaluate")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--window", type=click.IntRange(1), help="First-stage hits that are reranked; default: rerank.window.")
@click.option("--limit", type=click.IntRange(1), help="At most so many queries, drawn with the seed.")
@click.option("--split", default="test", show_default=True, help="Which queries: test, train, dev.")
@click.option("--qrels", help="Another file of judgments, in the folder or here.")
@click.option("--relevant-from", type=click.IntRange(1), default=1, show_default=True, help="Lowest grade for MRR.")
@click.option("--run", "run_file", help="A TREC run as first stage, in the folder or here; default: embedded BM25.")
@click.option("--layout", type=click.Choice(["block", "late", "joint"]), help="Default: backbone.layout.")
@click.option("--model", help="Default: backbone.model.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the drawn queries and the tests.")
@click.option("--timed", type=click.IntRange(0), default=3, show_default=True, help="Queries that are timed.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Also write the report as JSON.")
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
    layout: str | None,
    model: str | None,
    seed: int,
    timed: int,
    out: Path | None,
) -> None:
    """Measure first stage, all heads (ICR) and static heads, alone and fused, on a judged collection.

    FOLDER is laid out as BEIR does. Head scores are kept on disk as they come: a run that was stopped goes on.
    """
    from connector.backbone.opening import open_reader
    from connector.evaluation.collections import load_collection
    from connector.evaluation.first_stage import first_stage, open_collection_engine
    from connector.evaluation.provenance import Provenance, portable_command
    from connector.evaluation.report import Report, render_table, report_to_json
    from connector.evaluation.running import drawn_queries, rows, seconds_per_query
    from connector.evaluation.runs import read_run
    from connector.heads.head_sets import HeadSet
    from connector.reranker import Reranker, static_heads
    from connector.routing.statistics import gather, statistics_folder

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
    static, source = static_heads(settings, reader)
    tables = gather(
        reader,
        ((query, text, windows[query]) for query, text in collection.queries.items()),
        statistics_folder(settings.cache.path, reader),
        ("title", "text"),
    )
    counted = list(progress(console, f"head scores, {collection.name}", tables, len(collection.queries)))
    found = rows(collection, windows, counted, static, seed)
    if timed:
        everything = HeadSet(reader.runtime.shape.all_heads(), 1.0)
        for at, row in enumerate(found):
            # Fusing costs nothing that could be measured: one time serves a row and its fused twin.
            if row.readout is None or row.name.endswith("+first-stage"):
                continue
            heads = everything if row.head_list is None else HeadSet(row.head_list, 1.0)
            reader.clear_cache()
            reranker = Reranker(reader, heads, readout=row.readout, fields=("title", "text"))  # type: ignore[arg-type]
            seconds = seconds_per_query(reranker.rerank, collection, windows, timed)
            if seconds:
                for twin in (at, at + 1):
                    found[twin] = replace(found[twin], seconds_per_query=seconds[0], seconds_cached=seconds[1])
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
            first_stage="embedded BM25" if run_file is None else Path(run_file).name,
            qrels=collection.qrels_file,
            split=split,
            limit=limit,
            seed=seed,
            relevant_from=relevant_from,
            threads=reader.runtime.threads,
            device=reader.runtime.device,
            command=portable_command(sys.argv[1:], folder),
        ),
    )
    value = report_to_json(report)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    if context.as_json:
        context.print_json(value)
    else:
        Console().print(render_table(report))
