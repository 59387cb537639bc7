"""``rh-connector demo``: real documents, a real model, no set-up."""

from __future__ import annotations

import json
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from connector.cli.context import Context, pass_context
from connector.cli.demo_questions import Found, demo_questions, examples, questions_file, summary_of
from connector.cli.hit_table import ShownHit, hit_table, passage_text, printable, shown_hits, text_console
from connector.cli.models import Models
from connector.cli.progress import progress
from connector.cli.waiting import waiting
from connector.documents import RerankResult
from connector.errors import DataError, SettingsError
from connector.sections import Settings

if TYPE_CHECKING:
    from connector.engines.engine import Engine
    from connector.reranking.reranker import Reranker

# Settings of the demo, whatever file and environment say, unless --set gives them: passages short enough for all
# questions in a minute on two cores.
_SIZES = {"backbone.max_document_tokens": 128, "backbone.max_passages": 1}
_SHOWN = 5
_PORT = 8080
_COLUMN = 44
_HONEST = (
    "Questions and right documents were chosen before any was searched, and nothing was tuned on them: "
    "{} says how. One document is right; its near twins count as wrong."
)


@dataclass(frozen=True)
class _Answer:
    query: str
    hits: list[ShownHit]
    result: RerankResult
    seconds: float

    def found(self, document: str) -> Found:
        """Where this document stands."""
        hit = next((hit for hit in self.hits if hit.ranked.id == document), None)
        return Found(self.query, document, *((None, None) if hit is None else (hit.before, hit.place)))


@click.command("demo")
@click.option("--query", "queries", metavar="TEXT", multiple=True, help="Ask this instead; may be repeated.")
@click.option("--window", type=click.IntRange(1), default=20, show_default=True, help="Hits that are reranked.")
@click.option("--index", metavar="NAME", default="demo", show_default=True, help="Name of the demo's index.")
@click.option("--serve", is_flag=True, help="Serve the page on this index, instead of the questions of the file.")
@pass_context
def command(context: Context, queries: tuple[str, ...], window: int, index: str, serve: bool) -> None:
    """Search the documentation of Python's standard library, which every machine has, and rerank what is found.

    38 questions, whose right answers were known before any was searched, are asked with and without reranking. Then
    come the summary over all, and three of them side by side. No cluster and no settings are needed. The first run
    fetches the model and makes an index; both are kept.
    """
    settings = _settings(context, window, index)
    if any(not query.strip() for query in queries):
        raise SettingsError("demo: --query is empty; give a question in plain words")
    if serve:
        # Before the model is loaded: is the address free?
        from connector.service.server import listen

        listen(settings.serve.host, settings.serve.port).close()
    console = Console(stderr=True, highlight=False) if context.as_json else text_console()
    seconds: dict[str, float] = {}
    with _open_index(settings, console, seconds) as engine:
        reranker = _load(context.models, settings, console, seconds)
        if queries:
            _show_queries(context, console, settings, engine, reranker, queries, seconds)
        elif not serve:
            _measure(context, console, settings, engine, reranker, seconds)
    if serve:
        _serve(context, settings, reranker)


def _show_queries(
    context: Context,
    console: Console,
    settings: Settings,
    engine: Engine,
    reranker: Reranker,
    queries: Sequence[str],
    seconds: dict[str, float],
) -> None:
    answers = []
    for number, query in enumerate(queries, 1):
        answers.append(_ask(engine, reranker, query, settings.rerank.window))
        if not context.as_json:
            _show(console, answers[-1], f"{number}/{len(queries)}")
    seconds["questions"] = sum(answer.seconds for answer in answers)
    if context.as_json:
        _print_json(_to_json(settings, engine, answers, seconds))
    else:
        _moved(console, answers, seconds)
        _what_next(context, console, settings, answers[0].query)


def _measure(
    context: Context,
    console: Console,
    settings: Settings,
    engine: Engine,
    reranker: Reranker,
    seconds: dict[str, float],
) -> None:
    window = settings.rerank.window
    questions = demo_questions()
    there = engine.get(list(questions))
    asked = [(document, question) for document, question in questions.items() if document in there]
    if not asked:
        raise DataError(
            "demo: this Python has none of the documents that answer its questions; ask with --query TEXT"
        )
    tracked = progress(Console(stderr=True), f"{len(asked)} questions, {window} hits each", asked, len(asked))
    if not console.is_terminal:
        console.print(f"asking {len(asked)} questions, {window} hits each ...", markup=False)
    answers = {document: _ask(engine, reranker, question, window) for document, question in tracked}
    found = [answer.found(document) for document, answer in answers.items()]
    summary = summary_of(found, window)
    seconds["questions"] = sum(answer.seconds for answer in answers.values())
    if context.as_json:
        told = _to_json(settings, engine, list(answers.values()), seconds)
        for query, place in zip(told["queries"], found, strict=True):
            query |= {"right": place.document, "place_before": place.before, "place_after": place.after}
        _print_json({**told, "summary": summary.to_json()})
        return
    for name, example in examples(found).items():
        _side_by_side(console, name, example, answers[example.document])
    texts = sum(len(answer.result.hits) for answer in answers.values())
    console.print()
    _step(console, f"{len(asked)} questions answered, {texts} hits read", seconds["questions"])
    console.print("\n".join(summary.lines), style="bold", markup=False)
    console.print(_HONEST.format(questions_file()), markup=False, soft_wrap=True)
    if len(asked) < len(questions):
        console.print(f"Left out: {len(questions) - len(asked)}, whose documents this Python lacks.", markup=False)
    refused = next((answer.result.reason for answer in answers.values() if not answer.result.reranked), None)
    if refused is not None:
        console.print(f"Not all were reranked ({printable(refused)}).", style="yellow", markup=False)
    _what_next(context, console, settings, found[0].question)


def _settings(context: Context, window: int, index: str) -> Settings:
    given = {assignment.partition("=")[0].strip() for assignment in context.assignments}
    sizes = {key.replace(".", "__"): value for key, value in _SIZES.items() if key not in given}
    # Whatever engine is configured: the demo brings its own documents, and touches no cluster.
    engine = {"engine__kind": "embedded", "engine__url": "", "engine__fields": "", "engine__index": index}
    # Nobody else is to see what a demo shows, whatever a server's settings say.
    served = {} if "serve.host" in given else {"serve__host": "127.0.0.1"}
    return context.settings(rerank__window=window, **engine, **sizes, **served)


def _open_index(settings: Settings, console: Console, seconds: dict[str, float]) -> Engine:
    from connector.cli.demo_index import open_demo_index
    from connector.engines.open_engine import index_folder

    started = time.perf_counter()
    path = index_folder(settings)
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
    with waiting(f"loading {settings.backbone.model}") as report:
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


def _side_by_side(console: Console, name: str, found: Found, answer: _Answer) -> None:
    console.print()
    title = f"{name}: {found.question} (right: {found.document})"
    console.print(title[:1].upper() + title[1:], style="bold cyan", markup=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("place", justify="right", no_wrap=True)
    for column in ("first stage", "reranked"):
        table.add_column(column, no_wrap=True, overflow="ellipsis", width=_COLUMN)
    before = sorted(answer.hits, key=lambda hit: hit.before)
    places = {*range(1, _SHOWN + 1), found.before, found.after} - {None}
    for place in sorted(place for place in places if place is not None and place <= len(before)):
        row = (before[place - 1], answer.hits[place - 1])
        table.add_row(str(place), *(_named(hit, found.document) for hit in row))
    console.print(table)
    if found.before is None:
        console.print("The right document is not among these hits.", markup=False)


def _named(hit: ShownHit, right: str) -> Text:
    name = printable(hit.ranked.id or "")
    return Text(f"{name}  <- right", style="bold green") if hit.ranked.id == right else Text(name)


def _moved(console: Console, answers: Sequence[_Answer], seconds: dict[str, float]) -> None:
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
    host, port = settings.serve.host, settings.serve.port or _PORT
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
    shown = shlex.join(["demo", *([] if settings.engine.index == "demo" else ["--index", settings.engine.index])])
    console.print()
    console.print(
        f"Look at it: {printable(f'{program} {shown} --serve')} opens a page at http://{host}:{port}/",
        style="bold",
        markup=False,
        soft_wrap=True,
    )


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


def _to_json(
    settings: Settings, engine: Engine, answers: Sequence[_Answer], seconds: dict[str, float]
) -> dict[str, Any]:
    return {
        "index": settings.engine.index,
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


def _print_json(found: dict[str, Any]) -> None:
    # ASCII: texts may hold lone surrogates, and standard output may not be UTF-8.
    click.echo(json.dumps(found))


def _step(console: Console, text: str, seconds: float) -> None:
    console.print(f"{text} ({seconds:.1f} s)", markup=False)


def _serve(context: Context, settings: Settings, reranker: Reranker) -> None:
    from connector.service.server import run_server

    def announce(url: str) -> None:
        if context.as_json:
            context.print_json({"url": url})
        else:
            click.echo(f"The page is at {url}/ (Ctrl+C ends it)")

    run_server(reranker, settings, announce)
