"""``rh-connector evaluate``: does it help, on judged queries?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from connector.cli.context import Context, pass_context
from connector.cli.progress import ConsoleProgress
from connector.sections import LAYOUTS

if TYPE_CHECKING:
    from connector.evaluation.answering.evaluation import Evaluation

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("evaluate")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--window", type=click.IntRange(1), help="First-stage hits that are reranked; default: rerank.window.")
@click.option("--limit", type=click.IntRange(1), help="At most so many queries, drawn with the seed.")
@click.option("--split", default="test", show_default=True, help="Which queries: test, train, dev.")
@click.option("--qrels", help="Another file of judgments, in the folder or here.")
@click.option("--relevant-from", type=click.IntRange(1), default=1, show_default=True, help="Lowest grade for MRR.")
@click.option("--run", help="A TREC run as first stage, in the folder or here; default: engine.kind's search.")
@click.option("--by-rank", is_flag=True, help="Fuse with first-stage places, not scores, as a search pipeline does.")
@click.option("--layout", type=click.Choice(LAYOUTS), help="Default: backbone.layout.")
@click.option("--model", help="Default: backbone.model.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the drawn queries and the tests.")
@click.option("--timed", type=click.IntRange(0), default=3, show_default=True, help="Queries that are timed.")
@click.option("--bundle", type=_FILE, help="A router; default: router.bundle, or the one shipped for the model.")
@click.option("--left-out", type=_FILE, help="A router trained without this collection, for rows of its own.")
@click.option("--shuffle", is_flag=True, help="The LLM sees each window in random order (layout joint leaks it).")
@click.option("--layers", type=click.IntRange(1), help="Score heads of so many layers; default: of all.")
@click.option(
    "--embedder",
    multiple=True,
    help="Rows of an embedding model: a folder (ONNX), all-MiniLM-L6-v2, bge-small-en-v1.5. May be given again.",
)
@click.option("--hybrid", is_flag=True, help="First stage and embedder rank the hits before the LLM does.")
@click.option("--per-query", type=_FILE, help="Also write the measures of every query and row, tab separated.")
@click.option("--runs", type=click.Path(path_type=Path, file_okay=False), help="Also write a TREC run of each row.")
@click.option("--out", type=_FILE, help="Also write the report as JSON.")
@click.option("--report", type=_FILE, help="Also write the verdict, with each query's hits, as one HTML file.")
@click.option("--all-rows", is_flag=True, help="Print the whole table behind the verdict.")
@pass_context
def command(
    context: Context,
    /,
    folder: Path,
    window: int | None,
    layout: str | None,
    model: str | None,
    per_query: Path | None,
    runs: Path | None,
    out: Path | None,
    report: Path | None,
    all_rows: bool,
    **options: Any,
) -> None:
    """Is reranking worth it on your queries? The answer has three lines: by how much, which queries, what to set.

    Behind it stands a table (--all-rows): first stage, all heads (ICR), static heads and the router with its
    controls, each alone and fused with the first stage.

    FOLDER is laid out as BEIR does. Where engine.kind is a cluster, engine.index must hold its corpus. Or it is a
    file whose documents engine.index holds: pairs "query,document id" (.csv), or a click log (.jsonl) of
    {"query": "…", "shown": ["id", …], "clicked": "id"}.

    Head scores are kept on disk as they come: a run that was stopped goes on.
    """
    from connector.charts import check_charts
    from connector.engines.index_names import naming_indexes
    from connector.evaluation.evaluate import EvaluateOptions, evaluate
    from connector.evaluation.provenance import portable_command

    if report is not None:
        check_charts()
    settings = context.settings(rerank__window=window, backbone__layout=layout, backbone__model=model)
    with naming_indexes(settings):
        measured = evaluate(
            folder,
            settings,
            EvaluateOptions(**options),
            reader=context.models.reader,
            progress=ConsoleProgress(Console(stderr=True)),
            command=portable_command(sys.argv[1:], folder),
        )
    if out is not None:
        measured.write_report(out)
    if per_query is not None:
        measured.write_per_query(per_query)
    if runs is not None:
        measured.write_runs(runs)
    if context.as_json:
        context.print_json(measured.to_json())
    else:
        _print(measured, all_rows)
    if report is not None:
        # Last: where no row stands for a setting there is no page, and all else is told.
        measured.write_page(report)


def _print(measured: Evaluation, all_rows: bool) -> None:
    from connector.evaluation.report import render_controls, render_table

    verdict = measured.verdict()
    if verdict is not None:
        click.echo("\n".join(verdict.lines))
    if all_rows or verdict is None:
        terminal = Console()
        terminal.print(render_table(measured.report))
        routing = render_controls(measured.report)
        if routing is not None:
            terminal.print(routing)
