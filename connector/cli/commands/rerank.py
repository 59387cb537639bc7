"""``rh-connector rerank``: JSON lines or a whole TREC run, without an HTTP service."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from connector.cli.context import Context, pass_context
from connector.cli.elsewhere import ray_options, workers_of
from connector.cli.progress import progress
from connector.cli.waiting import waiting
from connector.documents import SupportsRerank
from connector.errors import DataError, RequestError, SettingsError
from connector.reranking.second_settings import without_budget, without_second
from connector.sections import CascadeSettings, Settings

if TYPE_CHECKING:
    from connector.evaluation.whole_runs.rerank_run import FieldsById
    from connector.offline.workers import Workers

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("rerank")
@click.option("--run", "run_path", type=_FILE, metavar="IN", help="Rerank this TREC run instead of standard input.")
@click.option("--out", type=_FILE, metavar="OUT", help="Where the reranked run goes; half a one is continued.")
@click.option(
    "--collection", type=click.Path(path_type=Path), metavar="DIR", help="BEIR folder with the run's texts."
)
@click.option("--queries", type=_FILE, metavar="FILE", help="JSONL with _id and text of the run's queries.")
@click.option("--whole-index", is_flag=True, help="Rank every document of the engine's index for --queries.")
@click.option("--window", type=click.IntRange(1), help="Documents of the run that are reranked (rerank.window).")
@click.option("--tag", help="Tag of the reranked run; default: made of settings and queries.")
@ray_options
@pass_context
def command(
    context: Context,
    run_path: Path | None,
    out: Path | None,
    collection: Path | None,
    queries: Path | None,
    whole_index: bool,
    window: int | None,
    tag: str | None,
    ray: str | None,
    ray_workers: int | None,
) -> None:
    """Rerank what standard input brings: lines {"query": "…", "documents": ["…", {"title": "…", "text": "…"}]}.

    Each line may also hold id, first_stage_scores (one number a document) or "first_stage": "order" (documents come
    best first), router_mode (routed, static, all) and deadline_ms. Each is answered by one line, in order; all its
    documents are reranked. Other keys have no effect, and the answer names them in ignored_keys. A line that is wrong
    is named on standard error, the others are still answered, and the exit code is 5.

    With --run, a TREC run is reranked into --out. The texts of its documents come from --collection or, with
    --queries alone, from the configured engine by their ids. Every document is kept; those behind the window follow
    in their order.

    With --whole-index, all documents of engine.index are read for each query of --queries, without a first stage.
    The best of each go to --out, as many as --window says. A cluster's index is read page by page, as it is now.
    """
    settings = context.settings(rerank__window=window)
    if whole_index:
        if run_path is not None or collection is not None:
            raise SettingsError("rerank: --whole-index takes no --run and no --collection; leave them out")
        if out is None or queries is None:
            raise SettingsError("rerank: --whole-index needs --queries FILE, and --out for the run")
        # Scores of many lists are compared: what a second model says of one list's best is none of the others'.
        settings = without_second(settings)
        with workers_of(settings, ray, ray_workers) as workers:
            _rank_index(context, settings, queries, out, tag or f"{_tag(settings)}-index", workers)
        return
    if run_path is None:
        given = {"--out": out, "--collection": collection, "--queries": queries, "--window": window, "--tag": tag}
        given["--ray"] = ray
        for option, value in given.items():
            if value is not None:
                raise SettingsError(f"rerank: {option} goes with --run; give --run IN or leave it out")
        _answer_lines(context, settings)
        return
    if out is None:
        raise SettingsError("rerank: --run needs --out, the file for the reranked run")
    if out.exists() and out.samefile(run_path):
        raise SettingsError("rerank: --run and --out are the same file; give another one with --out")
    if collection is None and queries is None:
        raise SettingsError("rerank: --run needs the texts of its queries; give --collection DIR or --queries FILE")
    # Else the run would depend on the machine's speed.
    settings = without_budget(settings)
    with workers_of(settings, ray, ray_workers) as workers:
        _rerank_run(context, settings, run_path, out, collection, queries, tag, workers)


def _answer_lines(context: Context, settings: Settings) -> None:
    from connector.cli.json_lines import read_request

    reranker: SupportsRerank | None = None
    wrong = number = 0
    for number, line in enumerate(sys.stdin.buffer, 1):
        if not line.strip():
            continue
        try:
            request = read_request(line)
            # Loaded at the first good line: wrong input is told at once.
            with nullcontext() if reranker else waiting(f"loading {settings.backbone.model}") as report:
                reranker = reranker or context.models.reranker(settings, report)
                if report is not None:
                    report(f"reading {len(request.documents)} documents", None)
                result = reranker.rerank(
                    request.query,
                    request.documents,
                    first_stage=request.first_stage,
                    deadline_ms=request.deadline_ms,
                    mode=request.mode,
                )
        except RequestError as error:
            wrong += 1
            click.echo(f"Error: line {number}: {error}", err=True)
            continue
        # ASCII: ids may hold lone surrogates, and standard output may not be UTF-8.
        click.echo(json.dumps({**request.echoed, **result.to_json()}, allow_nan=False))
    if wrong:
        raise DataError(f"standard input: {wrong} of {number} lines could not be answered; see above and mend them")


def _rerank_run(
    context: Context,
    settings: Settings,
    run_path: Path,
    out: Path,
    collection: Path | None,
    queries: Path | None,
    tag: str | None,
    workers: Workers | None,
) -> None:
    from connector.evaluation.collections import read_queries
    from connector.evaluation.runs import Run, read_run
    from connector.evaluation.whole_runs.rerank_run import rerank_run

    run: Run = read_run(run_path)
    if not run:
        raise DataError(f"{run_path} holds no query; give a TREC run")
    queries = queries if collection is None else queries or collection / "queries.jsonl"
    assert queries is not None
    texts = read_queries(queries)
    # A run that was made for other texts of the same ids is not continued either.
    tag = tag or f"{_tag(settings)}-{_digest(texts.get(query, '') for query in run)}"
    windows = {entry.id for entries in run.values() for entry in entries[: settings.rerank.window]}
    console = Console(stderr=True)
    with ExitStack() as opened:
        outcomes = rerank_run(
            run,
            texts,
            _fields(settings, collection, windows, opened),
            lambda: context.models.reranker(settings),
            out,
            window=settings.rerank.window,
            tag=tag,
            workers=workers,
        )
        done = list(progress(console, f"reranking {run_path.name}", outcomes, len(run)))
    unchanged = [outcome for outcome in done if outcome.reason is not None]
    kept = sum(outcome.kept for outcome in done)
    if unchanged:
        first = unchanged[0]
        many = "1 query was" if len(unchanged) == 1 else f"{len(unchanged)} queries were"
        told = f"Warning: {many} not reranked as asked, the first is {first.query}: {first.reason}"
        click.echo(told, err=True)
    if context.as_json:
        context.print_json(
            {"out": str(out), "tag": tag, "queries": len(done), "kept": kept, "unchanged": len(unchanged)}
        )
    else:
        click.echo(f"{len(done)} queries in {out}, {kept} of them from before", err=True)


def _rank_index(
    context: Context, settings: Settings, queries: Path, out: Path, tag: str, workers: Workers | None
) -> None:
    from connector.engines.index_names import naming_indexes
    from connector.engines.open_engine import open_engine
    from connector.evaluation.collections import read_queries
    from connector.evaluation.whole_runs.rank_index import rank_index

    texts = read_queries(queries)
    with naming_indexes(settings), open_engine(settings) as engine:
        # A missing index has no documents; asked for some of them, it says that it is missing.
        engine.get(())
        ranked = rank_index(
            engine.documents(),
            texts,
            lambda: context.models.reranker(settings),
            out,
            fields=tuple(settings.engine.field_weights()),
            keep=settings.rerank.window,
            tag=tag,
            made_by=_tag(settings),
            workers=workers,
        )
        console = Console(stderr=True)
        done = sum(1 for _ in progress(console, f"ranking {settings.engine.index}", ranked, engine.count()))
    if context.as_json:
        context.print_json({"out": str(out), "tag": tag, "queries": len(texts), "documents": done})
    else:
        click.echo(f"{done:,} documents ranked for {len(texts)} queries; the best of each are in {out}", err=True)


def _fields(settings: Settings, collection: Path | None, ids: Set[str], opened: ExitStack) -> FieldsById:
    """Fields of documents by id: of a corpus file, read once, or of the engine, which ``opened`` closes."""
    if collection is None:
        from connector.engines.index_names import naming_indexes
        from connector.engines.open_engine import open_engine

        engine = opened.enter_context(open_engine(settings))

        def of_engine(wanted: Sequence[str]) -> dict[str, Mapping[str, Any]]:
            with naming_indexes(settings):
                return {identity: found.fields for identity, found in engine.get(wanted).items()}

        return of_engine
    from connector.evaluation.collections import read_documents

    corpus = collection / "corpus.jsonl"
    known = {document.id: document.fields for document in read_documents(corpus) if document.id in ids}
    if missing := sorted(ids - known.keys()):
        # Told before hours of work, not when the query comes.
        raise DataError(
            f"{corpus} lacks document {missing[0]} of the run ({len(missing)} in all); give its own corpus"
        )
    return lambda wanted: known


def _tag(settings: Settings) -> str:
    """Names what the order depends on, so that a run made with other settings is not continued by mistake."""
    from connector.embedding.embedder import told_apart

    rerank, router = settings.rerank, settings.router
    read = ("dtype", "max_document_tokens", "max_passages")
    own = settings.backbone.model_dump(include=set(read), exclude_defaults=True)
    parts = [
        "rh",
        Path(settings.backbone.model).name,
        settings.backbone.layout,
        router.mode if router.bundle is None else f"{router.mode}-{router.bundle.stem}",
        *([] if router.embedder is None else [f"with-{told_apart(router.embedder)}"]),
        rerank.readout,
        str(rerank.fusion),
        f"w{rerank.window}",
        *_second(settings.cascade),
        *(f"{name}-{own[name]}" for name in read if name in own),
    ]
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", "-".join(parts))


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:8]


def _second(cascade: CascadeSettings) -> list[str]:
    if cascade.model is None:
        return []
    own = [Path(cascade.model).name, f"h{cascade.hits}"]
    return own if cascade.bundle is None else [*own, cascade.bundle.stem]
