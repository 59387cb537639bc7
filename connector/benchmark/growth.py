"""How time grows with the window, the length of documents, and the number of clients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from connector.backbone.reader import Layout
from connector.benchmark.measuring import Way, alternate
from connector.benchmark.running import Bench, rerank_once
from connector.benchmark.texts import Texts

__all__ = ["GrowthPlan", "growth"]


@dataclass(frozen=True)
class GrowthPlan:
    """What grows.

    Attributes:
        windows: documents of a window; the layout block stops at the benchmark's middle window.
        clients: that ask at once.
        texts: documents of other lengths, each at least a small window.
    """

    windows: Sequence[int]
    clients: Sequence[int]
    texts: Sequence[Texts]


def growth(bench: Bench, plan: GrowthPlan) -> list[dict[str, Any]]:
    """Rows as of the benchmark, each with ``by`` (window, tokens, clients) and its ``value``.

    Args:
        bench: has been run: its cached documents are used.
        plan: what grows.

    Raises:
        BackboneError, MissingExtraError: something cannot be run.
    """
    with ExitStack() as stack:
        ways = [*_by_window(bench, plan), *_by_tokens(bench, plan), *_by_clients(bench, plan, stack)]
        rows = alternate(ways, bench.plan.repeats, at_most=bench.plan.at_most, progress=bench.progress)
    return [row.to_json() for row in rows]


def _by_window(bench: Bench, plan: GrowthPlan) -> Iterator[Way]:
    layouts: tuple[tuple[Layout, int], ...] = (
        ("block", bench.plan.windows.middle),
        ("late", len(bench.texts.documents)),
    )
    for layout, most in layouts:
        for size in plan.windows:
            if size <= most:
                documents = bench.texts.documents[:size]
                yield _way(bench, layout, f"warm_{layout}_by_window_{size}", bench.texts, documents, "window", size)


def _by_tokens(bench: Bench, plan: GrowthPlan) -> Iterator[Way]:
    layouts: tuple[Layout, ...] = ("block", "late")
    for texts in plan.texts:
        documents = texts.documents[: bench.plan.windows.small]
        for layout in layouts:
            name = f"warm_{layout}_by_tokens_{texts.tokens}"
            yield _way(bench, layout, name, texts, documents, "tokens", texts.tokens)


def _way(bench: Bench, layout: Layout, name: str, texts: Texts, documents: Sequence[str], by: str, value: int) -> Way:
    def call(turn: int) -> dict[str, float]:
        return rerank_once(bench.warm[layout], texts.query(turn), documents, {})

    about = {"layout": layout, "by": by, "value": value, "window": len(documents), "tokens": texts.tokens}
    return Way(name, call, about=about)


def _by_clients(bench: Bench, plan: GrowthPlan, stack: ExitStack) -> Iterator[Way]:
    if not plan.clients:
        return
    from connector.benchmark.http_serving import clients_way, serving

    layouts: tuple[Layout, ...] = ("block", "late")
    for layout in layouts:
        port = stack.enter_context(serving(bench.warm[layout], bench.backbone.settings))
        window = bench.plan.windows.small
        for clients in plan.clients:
            about = {
                "layout": layout,
                "by": "clients",
                "value": clients,
                "window": window,
                "tokens": bench.texts.tokens,
            }
            name = f"warm_{layout}_by_clients_{clients}"
            yield clients_way(name, port, clients, bench.texts, window, about, stack)
