"""``rh-connector index``: documents into the engine's index."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from connector.cli.context import Context, pass_context
from connector.cli.elsewhere import ray_options, workers_of
from connector.cli.hit_table import printable
from connector.cli.models import Models
from connector.cli.precompute import Precomputed, check_precompute, precompute
from connector.errors import DataError, SettingsError
from connector.reranking.second_settings import without_second
from connector.sections import Settings

if TYPE_CHECKING:
    from connector.engines.indexing import IndexOutcome
    from connector.engines.sources import BadLine, Source
    from connector.offline.workers import Workers

# Bad lines that are printed one by one, and that --json holds.
_SHOWN = 20
# Documents that become durable together. An embedding model takes seconds for a hundred.
_BATCH, _EMBEDDED_BATCH = 1000, 250


@click.command("index")
@click.argument("source", required=False)
@click.option("--sample", is_flag=True, help="Take the documentation of Python's standard library, to try it.")
@click.option("--index", metavar="NAME", help="Index that the documents go to (engine.index).")
@click.option("--fields", metavar="NAME,...", help="Take only these fields of the documents; default: all.")
@click.option("--strict", is_flag=True, help="Stop at the first bad line instead of skipping it.")
@click.option("--restart", is_flag=True, help="Begin at the first line, also where an earlier run was interrupted.")
@click.option("--precompute", "ahead", is_flag=True, help="Then encode the documents into the cache on disk.")
@ray_options
@pass_context
def command(
    context: Context,
    source: str | None,
    sample: bool,
    index: str | None,
    fields: str | None,
    strict: bool,
    restart: bool,
    ahead: bool,
    ray: str | None,
    ray_workers: int | None,
) -> None:
    """Put the documents of SOURCE into the index: a JSONL file, a BEIR folder, or - for standard input.

    Each line is an object with _id (or id); its other keys are the document's fields. A document with a known id
    replaces the older one. Bad lines are named and skipped. Gzip is unpacked. When a run was interrupted, the same
    command continues it.

    Nothing at hand? --sample has some thousand documents that every machine has, those of the demo.

    With --precompute, no query has to wait for a document to be encoded: all are kept on disk (cache.disk_mb), as
    the model, layout and heads of the settings need them.
    """
    from connector.engines.indexing import index_source
    from connector.engines.open_engine import open_engine, progress_folder
    from connector.engines.progress import ProgressFile, Reached
    from connector.engines.sources import Source

    settings = context.settings(engine__index=index)
    source = _sample(settings, source) if sample else source
    if source is None:
        raise SettingsError(
            "index: SOURCE is missing; give a JSONL file, a BEIR folder, or - ; or try it with --sample"
        )
    if ahead:
        check_precompute(settings, source)
    elif ray is not None:
        raise SettingsError(
            f"index: --ray {ray} goes with --precompute, which runs the LLM; add it, or leave --ray out"
        )
    opened = Source(source, _names(fields))
    console = Console(stderr=True, highlight=False)
    started = time.perf_counter()
    bad: list[BadLine] = []
    unnamed = 0
    so_far = Reached()
    with open_engine(settings) as engine, _bar(console) as bar:
        task = bar.add_task("indexing", total=opened.size, documents="")

        def report(line: BadLine) -> None:
            nonlocal unnamed
            if len(bad) < _SHOWN:
                bad.append(line)
                console.print(f"Skipped: {printable(str(line))}", markup=False, soft_wrap=True)
            else:
                unnamed += 1

        def committed(reached: Reached) -> None:
            nonlocal so_far
            so_far = reached
            bar.update(task, completed=opened.position(), documents=f"{reached.indexed:,} documents")

        progress = ProgressFile(progress_folder(settings), opened.identity())
        try:
            outcome = index_source(
                engine,
                opened,
                progress,
                strict=strict,
                restart=restart,
                batch=_BATCH if settings.engine.embedder is None else _EMBEDDED_BATCH,
                bad=report,
                committed=committed,
            )
        except KeyboardInterrupt:
            bar.stop()
            again = "" if opened.identity() is None else " The same command continues."
            click.echo(f"Stopped: {so_far.indexed:,} documents are in the index.{again}", err=True)
            raise
        documents = engine.count()
    if unnamed:
        click.echo(f"... and {unnamed:,} more lines", err=True)
    seconds = time.perf_counter() - started
    encoded = None
    if ahead and outcome.reached.indexed:
        with workers_of(settings, ray, ray_workers) as workers:
            encoded = _encode(context.models, settings, Source(source, _names(fields)), console, workers)
    _finish(context, settings, source, outcome, bad, documents, seconds, encoded)
    if sample and not context.as_json:
        from connector.engines.standard_library import QUESTIONS

        click.echo(f"The documents are in {source}. Ask them: {QUESTIONS[0]}", err=True)


def _sample(settings: Settings, source: str | None) -> str:
    if source is not None:
        raise SettingsError(f"index: --sample takes no SOURCE, and {source} is one; leave either out")
    from connector.engines.sample import sample_file

    return str(sample_file(settings.cache.path / "samples"))


def _encode(
    models: Models, settings: Settings, source: Source, console: Console, workers: Workers | None
) -> Precomputed:
    done: Precomputed | None = None
    with _bar(console) as bar:
        task = bar.add_task("encoding", total=source.size, documents="loading the model")

        def report(now: Precomputed) -> None:
            nonlocal done
            done = now
            bar.update(task, completed=source.position(), documents=f"{now.documents:,} documents")

        try:
            return precompute(models.reranker(without_second(settings)), settings, source, report, workers)
        except KeyboardInterrupt:
            bar.stop()
            documents = 0 if done is None else done.documents
            click.echo(f"Stopped: {documents:,} documents are encoded. The same command continues.", err=True)
            raise


def _finish(
    context: Context,
    settings: Settings,
    source: str,
    outcome: IndexOutcome,
    bad: list[BadLine],
    documents: int,
    seconds: float,
    encoded: Precomputed | None,
) -> None:
    reached = outcome.reached
    if context.as_json:
        context.print_json(
            {
                "index": settings.engine.index,
                "source": source,
                "indexed": reached.indexed,
                "replaced": reached.replaced,
                "skipped": reached.skipped,
                "without_text": outcome.without_text,
                "documents": documents,
                "resumed_after_line": outcome.resumed_after,
                "bad_lines": [{"file": line.file, "line": line.line, "reason": line.reason} for line in bad],
                "seconds": round(seconds, 3),
                **({} if encoded is None else {"precomputed": asdict(encoded)}),
            }
        )
    else:
        if outcome.resumed_after:
            click.echo(f"Continued after line {outcome.resumed_after:,}; the numbers count from the first.", err=True)
        click.echo(
            f"indexed {reached.indexed:,}, replaced {reached.replaced:,}, skipped {reached.skipped:,} "
            f"({seconds:.1f} s); {documents:,} documents in {settings.engine.index}"
        )
        if outcome.without_text:
            click.echo(
                f"Warning: {outcome.without_text:,} documents hold no text, so no search finds them; "
                "their fields are numbers or empty",
                err=True,
            )
        if encoded is not None:
            click.echo(
                f"encoded {encoded.encoded:,} {encoded.counted}, {encoded.present:,} were there "
                f"({encoded.seconds:.1f} s); "
                f"the cache takes {decimal(encoded.file_bytes)}"
            )
    if not reached.indexed:
        what = "every line is bad; see above" if reached.skipped else "it is empty"
        raise DataError(f'{source}: no document was indexed, {what}; give lines as {{"_id": "1", "text": "..."}}')


def _names(fields: str | None) -> tuple[str, ...]:
    if fields is None:
        return ()
    names = tuple(name.strip() for name in fields.split(","))
    if not all(names) or any("^" in name for name in names):
        raise SettingsError(f"--fields {fields}: give names as in title,text; weights go into engine.fields")
    return names


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[documents]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
