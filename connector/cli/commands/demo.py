"""``rh-connector demo``: real documents, a real model, no set-up."""

from __future__ import annotations

import json
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from connector.cli.context import Context, pass_context
from connector.cli.hit_table import ShownHit, hit_table, passage_text, printable, shown_hits, text_console
from connector.cli.models import Models
from connector.documents import RerankResult
from connector.errors import MissingExtraError, SettingsError
from connector.sections import Settings

if TYPE_CHECKING:
    from connector.engines.engine import Engine
    from connector.reranker import Reranker

# Settings of the demo, each unless --set gives it: passages short enough for an answer in seconds on two cores.
_SIZES = {"backbone.max_document_tokens": 192, "backbone.max_passages": 1}
_SHOWN = 5


@dataclass(frozen=True)
class _Answer:
    query: str
    hits: list[ShownHit]
    result: RerankResult
    seconds: float


@click.command("demo")
@click.option("--query", "queries", metavar="TEXT", multiple=True, help="Ask this instead; may be repeated.")
@click.option("--window", type=click.IntRange(1), default=20, show_default=True, help="Hits that are reranked.")
@click.option("--index", metavar="NAME", default="demo", show_default=True, help="Name of the demo's index.")
@click.option("--serve", is_flag=True, help="Then answer rerank requests over HTTP.")
@pass_context
def command(context: Context, queries: tuple[str, ...], window: int, index: str, serve: bool) -> None:
    """Search the documentation of Python's standard library, which every machine has, and rerank what is found.

    No cluster and no settings are needed. The first run fetches the model and makes an index; both are kept.
    """
    settings = _settings(context, window, index)
    if any(not query.strip() for query in queries):
        raise SettingsError("demo: --query is empty; give a question in plain words")
    if serve:
        _need_server()
    console = Console(stderr=True, highlight=False) if context.as_json else text_console()
    seconds: dict[str, float] = {}
    engine = _open_index(settings, console, seconds)
    reranker = _load(context.models, settings, console, seconds)
    from connector.engines.standard_library import QUESTIONS

    answers = []
    for number, query in enumerate(queries or QUESTIONS, 1):
        answer = _ask(engine, reranker, query, window)
        answers.append(answer)
        if not context.as_json:
            _show(console, answer, f"{number}/{len(queries or QUESTIONS)}")
    seconds["questions"] = sum(answer.seconds for answer in answers)
    if context.as_json:
        # ASCII: texts may hold lone surrogates, and standard output may not be UTF-8.
        click.echo(json.dumps(_to_json(index, engine, answers, seconds)))
    else:
        _summary(console, answers, seconds)
        _what_next(context, console, settings, answers[0].query)
    engine.close()
    if serve:
        _serve(context, settings, reranker)


def _settings(context: Context, window: int, index: str) -> Settings:
    given = {assignment.partition("=")[0].strip() for assignment in context.assignments}
    sizes = {key.replace(".", "__"): value for key, value in _SIZES.items() if key not in given}
    # Whatever engine is configured: the demo brings its own documents, and touches no cluster.
    engine = {"engine__kind": "embedded", "engine__url": "", "engine__fields": "", "engine__index": index}
    return context.settings(rerank__window=window, **engine, **sizes)


def _open_index(settings: Settings, console: Console, seconds: dict[str, float]) -> Engine:
    from connector.cli.demo_index import open_demo_index

    started = time.perf_counter()
    path = settings.cache.path / "indexes" / settings.engine.index
    engine, was_there = open_demo_index(path, lambda what: console.print(f"{what} ...", markup=False))
    seconds["index"] = time.perf_counter() - started
    state = "from before" if was_there else "indexed"
    _step(
        console,
        f"{engine.count():,} documents of Python {platform.python_version()}'s documentation, {state}",
        seconds["index"],
    )
    return engine


def _load(models: Models, settings: Settings, console: Console, seconds: dict[str, float]) -> Reranker:
    started = time.perf_counter()
    with _reporting() as report:
        report(f"loading {settings.backbone.model}", None)
        reranker = models.reranker(settings, report)
    seconds["model"] = time.perf_counter() - started
    routes, every = reranker.routes, len(reranker.reader.runtime.shape.all_heads())
    picks = routes.default == "routed" and routes.bundle is not None and routes.bundle.metadata.kappa > 0
    heads = len(routes.pool().heads if picks else routes.route("any question").heads)
    how = f"a router picks from {heads}" if picks else f"{heads} are read"
    _step(console, f"{settings.backbone.model} is loaded; of its {every} heads {how}", seconds["model"])
    return reranker


def _ask(engine: Engine, reranker: Reranker, query: str, window: int) -> _Answer:
    started = time.perf_counter()
    hits = engine.search(query, window)
    result = reranker.rerank(query, hits)
    return _Answer(query, shown_hits(hits, result), result, time.perf_counter() - started)


def _show(console: Console, answer: _Answer, number: str) -> None:
    console.print()
    console.print(f"{number}  {printable(answer.query)}", style="bold cyan", markup=False)
    if not answer.hits:
        console.print("Nothing found; try other words.", markup=False)
        return
    if not answer.result.reranked:
        console.print(f"Not reranked ({printable(str(answer.result.reason))}).", style="yellow", markup=False)
    console.print(hit_table(answer.hits[:_SHOWN], console))
    passage = passage_text(answer.hits[0], console)
    if passage is not None:
        console.print(f"the heads looked at, in {printable(answer.hits[0].ranked.id or '')}:", markup=False)
        console.print("  ", passage)


def _summary(console: Console, answers: Sequence[_Answer], seconds: dict[str, float]) -> None:
    texts = sum(len(answer.result.hits) for answer in answers)
    changed = sum(bool(answer.hits) and answer.hits[0].before != 1 for answer in answers)
    console.print()
    _step(
        console,
        f"{len(answers)} question{'s' if len(answers) > 1 else ''} answered, {texts} documents read",
        seconds["questions"],
    )
    console.print(
        f"{changed} of {len(answers)} have another first hit than before. This shows what moved, not that it is "
        f"better: read the hits, or measure with 'evaluate' on judged queries.",
        markup=False,
    )


def _what_next(context: Context, console: Console, settings: Settings, query: str) -> None:
    program = _program(context)
    host, port = settings.serve.host, settings.serve.port or 8080
    body = '{"query": "how long do cats sleep", "documents": ["Bread needs yeast.", "Cats sleep all day."]}'
    document = '{"_id": "1", "title": "Cats", "text": "Adult cats sleep twelve to sixteen hours a day."}'
    search = f"{program} {_own_engine(context)}search"
    own = f"{program} --set engine.kind=embedded --set engine.index=mine"
    steps = {
        "search this index, and see why": [
            f"{search} --index {shlex.quote(settings.engine.index)} --explain -- {shlex.quote(query)}"
        ],
        "rerank over HTTP (the second line in another terminal, once the model is loaded)": [
            f"{program} serve --port {port}",
            f"curl -s http://{host}:{port}/v1/rerank -H 'content-type: application/json' -d {shlex.quote(body)}",
        ],
        "documents of your own, one JSON object a line": [
            f"echo {shlex.quote(document)} > mine.jsonl",
            f"{own} index mine.jsonl",
            f"{own} search 'how long do cats sleep'",
        ],
        "measure, on queries that somebody judged": [f"{program} evaluate --help"],
    }
    console.print()
    console.print("What to type next", style="bold", markup=False)
    for title, lines in steps.items():
        console.print(f"# {title}", style="dim", markup=False, soft_wrap=True)
        for line in lines:
            # Never folded: what is copied must be one line.
            console.print(printable(line), markup=False, soft_wrap=True)


def _program(context: Context) -> str:
    """The command as it was called, with the same settings, so that what is copied works."""
    called = Path(sys.argv[0])
    parts = ["rh-connector"]
    on_path = shutil.which("rh-connector")
    if called.stem == "rh-connector" and (on_path is None or not called.exists() or not called.samefile(on_path)):
        parts = [sys.argv[0]]
    if context.config is not None:
        parts += ["--config", context.config]
    for assignment in context.assignments:
        parts += ["--set", assignment]
    return shlex.join(parts)


def _own_engine(context: Context) -> str:
    """What a search of the demo's index needs where another engine is configured."""
    engine = context.settings().engine
    if engine.kind == "embedded" and engine.url is None and not engine.fields:
        return ""
    return "--set engine.kind=embedded --set engine.url= --set engine.fields= "


def _to_json(index: str, engine: Engine, answers: Sequence[_Answer], seconds: dict[str, float]) -> dict[str, Any]:
    return {
        "index": index,
        "documents": engine.count(),
        "queries": [
            {
                "query": answer.query,
                **answer.result.to_json(),
                "hits": [hit.to_json() for hit in answer.hits],
                "seconds": round(answer.seconds, 3),
            }
            for answer in answers
        ],
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }


def _step(console: Console, text: str, seconds: float) -> None:
    console.print(f"{text} ({seconds:.1f} s)", markup=False)


@contextmanager
def _reporting() -> Iterator[Callable[[str, float | None], None]]:
    """A bar on standard error for what is fetched and loaded."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task("", total=None)
    said = set()

    def report(label: str, fraction: float | None) -> None:
        bar.update(task, description=label, total=None if fraction is None else 1.0, completed=fraction or 0.0)
        if bar.disable and label not in said:
            # Where standard error is a file, a bar is noise; what takes long is still said once.
            said.add(label)
            console.print(label, markup=False, highlight=False)

    with bar:
        yield report


def _need_server() -> None:
    # Told before minutes of work.
    import importlib.util

    for package in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "serve")


def _serve(context: Context, settings: Settings, reranker: Reranker) -> None:
    from connector.service.server import run_server

    def announce(url: str) -> None:
        if context.as_json:
            context.print_json({"url": url})
        else:
            click.echo(f"Listening on {url}")

    run_server(reranker, settings, announce)
