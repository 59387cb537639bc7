"""``rh-connector search``: the engine's hits, reranked, with what moved."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from connector.cli.context import Context, pass_context
from connector.cli.hit_table import ShownHit, hit_table, passage_text, printable, shown_hits, text_console
from connector.cli.models import Models
from connector.cli.waiting import waiting
from connector.documents import Hit, RerankResult, UsedHead, has_text
from connector.errors import SettingsError
from connector.sections import MODES, Settings

if TYPE_CHECKING:
    from connector.checkpoints.package_files import Progress
    from connector.explanation import Explanation, HitExplanation

_SHOWN_HEADS = 16


class _Search(click.Command):
    """Says where a query goes that begins as an option does."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            told = f"{error.message} A query that starts with a dash goes after --."
            raise click.NoSuchOption(error.option_name, told, error.possibilities, ctx) from None


@click.command("search", cls=_Search)
@click.argument("words", nargs=-1, required=True, metavar="QUERY")
@click.option("-k", "size", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Hits to show.")
@click.option("--window", type=click.IntRange(1), help="First-stage hits that are reranked (rerank.window).")
@click.option("--index", metavar="NAME", help="Index that is searched (engine.index).")
@click.option("--mode", type=click.Choice(MODES), help="How heads are chosen (router.mode).")
@click.option("--query-json", metavar="JSON", help="The cluster's own query language (engine.query_json).")
@click.option("--no-rerank", is_flag=True, help="The engine's own order.")
@click.option("--explain", is_flag=True, help="Also show scores, the passage that the heads looked at, and times.")
@pass_context
def command(
    context: Context,
    words: tuple[str, ...],
    size: int,
    window: int | None,
    index: str | None,
    mode: str | None,
    query_json: str | None,
    no_rerank: bool,
    explain: bool,
) -> None:
    """Search with QUERY, rerank, and show what moved; several words need no quotes.

    Hits behind the window follow in the engine's order. A query that starts with a dash goes after --. When
    reranking fails, the engine's order is shown, and standard error says why. A model that is not here, or a router
    that does not fit it, is an error before anything is searched.
    """
    settings = context.settings(
        rerank__window=window, engine__index=index, router__mode=mode, engine__query_json=query_json
    )
    query = " ".join(words)
    if not has_text(query):
        raise SettingsError("search: QUERY is empty; give the words to search for")
    from connector.explanation import explain as explained

    with waiting("searching") as report:
        # The engine first: a missing index is told before the model is loaded.
        started = time.perf_counter()
        hits = _first_stage(settings, query, size if no_rerank else max(size, settings.rerank.window))
        searched = (time.perf_counter() - started) * 1000
        wanted = [] if no_rerank else hits[: settings.rerank.window]
        result = _rerank(context.models, settings, query, wanted, no_rerank, report)
    shown = shown_hits(hits, result)[:size]
    timings = {"first_stage": searched, **result.timings_ms}
    if not result.reranked and result.reason and hits and not no_rerank:
        click.echo(f"Not reranked ({printable(result.reason)}): the hits keep the engine's order.", err=True)
    if context.as_json:
        # ASCII: texts may hold lone surrogates, and standard output may not be UTF-8.
        found = _to_json(query, shown, result, timings)
        if explain:
            explanation = explained(result)
            found["explanation"] = None if explanation is None else explanation.to_json()
        click.echo(json.dumps(found, default=str))
        return
    console = text_console()
    if not shown:
        console.print("Nothing found; try other words.", markup=False)
        return
    fields = tuple(settings.engine.field_weights())
    console.print(hit_table(shown, console, fields))
    if explain:
        _explain(console, shown, result, timings, fields, explained(result))


def _first_stage(settings: Settings, query: str, size: int) -> list[Hit]:
    from connector.engines.index_names import naming_indexes
    from connector.engines.open_engine import open_engine

    with naming_indexes(settings), open_engine(settings) as engine:
        return engine.search(query, size)


def _rerank(
    models: Models, settings: Settings, query: str, window: list[Hit], no_rerank: bool, report: Progress
) -> RerankResult:
    if not window:
        return RerankResult((), False, "not asked for" if no_rerank else "no documents")
    report(f"loading {settings.backbone.model}", None)
    reranker = models.reranker(settings, report)
    report(f"reading {len(window)} documents", None)
    return reranker.rerank(query, window)


def _to_json(query: str, shown: list[ShownHit], result: RerankResult, timings: Mapping[str, float]) -> dict[str, Any]:
    return {
        "query": query,
        **result.to_json(),
        "hits": [hit.to_json() for hit in shown],
        "timings_ms": {name: round(ms, 3) for name, ms in timings.items()},
    }


def _explain(
    console: Console,
    shown: list[ShownHit],
    result: RerankResult,
    timings: Mapping[str, float],
    fields: tuple[str, ...],
    explanation: Explanation | None,
) -> None:
    parts = {} if explanation is None else {hit.index: hit for hit in explanation.hits}
    for hit in shown:
        ranked = hit.ranked
        console.print()
        console.print(f"{hit.place}  {printable(ranked.id or '')}", style="bold", markup=False)
        scores = [f"score {ranked.score:.4f}"]
        if ranked.head_score is not None:
            scores.append(f"heads {ranked.head_score:.6f}")
        if ranked.first_stage_score is not None:
            scores.append(f"first stage {ranked.first_stage_score:.4f} (place {hit.before})")
        if ranked.passages:
            left_out = ", the rest was left out" if ranked.truncated else ""
            scores.append(f"{ranked.passages} passage{'s' if ranked.passages > 1 else ''} read{left_out}")
        elif result.reranked:
            scores.append("not read")
        console.print("   " + ", ".join(scores), markup=False)
        if explanation is not None and ranked.index in parts:
            console.print("   " + _sum(parts[ranked.index], explanation), markup=False)
        passage = passage_text(hit, console, fields)
        if passage is not None:
            console.print("   looked at:", passage)
    console.print()
    if result.gates:
        many = f", the best {_SHOWN_HEADS} of {len(result.gates)}" if len(result.gates) > _SHOWN_HEADS else ""
        heads = ", ".join(
            f"{f'{used.layer}.{used.head}' if isinstance(used, UsedHead) else used.signal} {used.gate:.2f}"
            for used in result.gates[:_SHOWN_HEADS]
        )
        console.print(f"heads (layer.head gate), {result.mode}{many}: {heads}", markup=False)
        console.print(
            f"first-stage gate: {result.first_stage_gate:.2f}; deepest layer: {result.deepest_layer}", markup=False
        )
    if explanation is not None:
        console.print(explanation.formula, markup=False)
    console.print(
        "milliseconds: " + ", ".join(f"{name} {value:.1f}" for name, value in timings.items()), markup=False
    )


def _sum(hit: HitExplanation, explanation: Explanation) -> str:
    """What a score is the sum of, as in ``0.93 = bias -2.51 + probe 3.44 + first stage 0.02``."""
    if hit.head_score is None or hit.why is not None:
        return hit.why or ""
    parts: list[tuple[str, float]] = []
    if explanation.heads is None and explanation.unit == "log-odds":
        parts = [("bias", explanation.workings.bias), *((own.name, own.counted) for own in hit.signals)]
        if hit.second is not None:
            parts.append(("second model", hit.second.counted))
    elif hit.head_counted is not None:
        parts = [("heads", hit.head_counted)]
    if hit.first_stage_counted is not None:
        parts.append(("first stage", hit.first_stage_counted))
    return f"{hit.score:.4f} = " + " + ".join(f"{name} {value:.4f}" for name, value in parts)
