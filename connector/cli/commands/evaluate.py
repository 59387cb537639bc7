"""``rh-connector evaluate``: does it help, on judged queries?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from connector.cli.context import Context, pass_context
from connector.cli.elsewhere import ray_options, workers_of
from connector.cli.progress import ConsoleProgress
from connector.errors import SettingsError
from connector.sections import LAYOUTS

if TYPE_CHECKING:
    from connector.evaluation.answering.evaluation import Evaluation

# A file, or with several collections a folder.
_PLACE = click.Path(path_type=Path)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("evaluate")
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER...", type=click.Path(path_type=Path))
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
@click.option("--per-query", type=_PLACE, help="Also write the measures of every query and row, tab separated.")
@click.option("--runs", type=click.Path(path_type=Path, file_okay=False), help="Also write a TREC run of each row.")
@click.option("--out", type=_PLACE, help="Also write the report as JSON.")
@click.option("--report", type=_PLACE, help="Also write the verdict, with each query's hits, as one HTML file.")
@click.option("--all-rows", is_flag=True, help="Print the whole table behind the verdict.")
@ray_options
@pass_context
def command(
    context: Context,
    /,
    folders: tuple[Path, ...],
    window: int | None,
    layout: str | None,
    model: str | None,
    per_query: Path | None,
    runs: Path | None,
    out: Path | None,
    report: Path | None,
    **options: Any,
) -> None:
    """Is reranking worth it on your queries? The answer has three lines: by how much, which queries, what to set.

    Behind it stands a table (--all-rows): first stage, all heads (ICR), static heads and the router with its
    controls, each alone and fused with the first stage.

    FOLDER is laid out as BEIR does. Where engine.kind is a cluster, engine.index must hold its corpus. Or it is a
    file whose documents engine.index holds: pairs "query,document id" (.csv), or a click log (.jsonl) of
    {"query": "…", "shown": ["id", …], "clicked": "id"}.

    Of several FOLDERs each is measured, one after the other. --out, --per-query, --runs and --report then name
    folders, which get a file (--runs: a folder) for each, and --json prints a line for each.

    Head scores are kept on disk as they come: a run that was stopped goes on.
    """
    from connector.charts import check_charts
    from connector.engines.index_names import naming_indexes
    from connector.evaluation.evaluate import EvaluateOptions, evaluate
    from connector.evaluation.provenance import portable_command

    ray, ray_workers = (options.pop(name) for name in ("ray", "ray_workers"))
    places = _Places(out, per_query, runs, report, len(folders) > 1)
    places.check(folders)
    if report is not None:
        check_charts()
    settings = context.settings(rerank__window=window, backbone__layout=layout, backbone__model=model)
    given = EvaluateOptions(**options)
    with naming_indexes(settings), workers_of(settings, ray, ray_workers) as workers:
        for folder in folders:
            others = {other for other in folders if other != folder}
            measured = evaluate(
                folder,
                settings,
                given,
                reader=context.models.reader,
                progress=ConsoleProgress(Console(stderr=True)),
                command=portable_command([each for each in sys.argv[1:] if Path(each) not in others], folder),
                workers=workers,
            )
            own = places.of(folder)
            if own.out is not None:
                measured.write_report(own.out)
            if own.per_query is not None:
                measured.write_per_query(own.per_query)
            if own.runs is not None:
                measured.write_runs(own.runs)
            if context.as_json:
                context.print_json(measured.to_json())
            else:
                if places.several:
                    click.echo(f"{_name(folder)}:")
                _print(measured, given.all_rows)
            if own.report is not None:
                # Last: where no row stands for a setting there is no page, and all else is told.
                measured.write_page(own.report)


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the results go: files, or folders of several collections' files."""

    out: Path | None
    per_query: Path | None
    runs: Path | None
    report: Path | None
    several: bool = False

    def check(self, folders: Sequence[Path]) -> None:
        """Refuse what would be found out after hours.

        Raises:
            SettingsError: a folder where a file belongs or the other way round, or two collections of one name.
        """
        for option, place in (("--out", self.out), ("--per-query", self.per_query), ("--report", self.report)):
            if place is not None and not self.several and place.is_dir():
                raise SettingsError(f"evaluate: {option} {place} is a folder; of one collection, name a file")
            if place is not None and self.several and place.is_file():
                raise SettingsError(f"evaluate: {option} {place} is a file; of several collections, name a folder")
        names = [_name(folder) for folder in folders]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise SettingsError(f"evaluate: two of the collections are called {twice[0]}; evaluate them one by one")

    def of(self, folder: Path) -> _Places:
        """The files of one collection; their folders are made."""
        if not self.several:
            return self

        def file(place: Path | None, suffix: str) -> Path | None:
            if place is None:
                return None
            place.mkdir(parents=True, exist_ok=True)
            return place / f"{_name(folder)}{suffix}"

        return _Places(
            file(self.out, ".json"), file(self.per_query, ".tsv"), file(self.runs, ""), file(self.report, ".html")
        )


def _name(folder: Path) -> str:
    return folder.resolve().stem if folder.is_file() else folder.resolve().name


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
