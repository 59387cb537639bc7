"""How time grows with the window, the length of documents, and the number of clients."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from connector.benchmark.measuring import Way, alternate
from connector.benchmark.running import MEMORY, Bench, rerank_once
from connector.benchmark.texts import Texts
from connector.reranking.reranker import Reranker
from connector.sections import Layout

__all__ = ["GrowthPlan", "growth"]

_REQUESTS = 8


@dataclass(frozen=True)
class GrowthPlan:
    """What grows.

    Attributes:
        windows: documents of a window; all layouts but late stop at ``most``.
        clients: that ask at once.
        texts: documents of other lengths, each at least a small window.
        layouts: that are timed.
        most: documents of a window; None: the benchmark's middle window.
    """

    windows: Sequence[int]
    clients: Sequence[int]
    texts: Sequence[Texts]
    layouts: Sequence[Layout] = ("solo", "late")
    most: int | None = None


def growth(bench: Bench, plan: GrowthPlan) -> list[dict[str, Any]]:
    """Rows as of the benchmark, each with ``by`` (window, tokens, clients, clients_cold) and its ``value``.

    Args:
        bench: has been run: its cached documents are used.
        plan: what grows.

    Raises:
        BackboneError, MissingExtraError: something cannot be run.
    """
    with ExitStack() as stack:
        ways = [
            *_by_window(bench, plan),
            *_by_tokens(bench, plan),
            *_by_clients(bench, plan, stack),
            *_by_cold_clients(bench, plan),
        ]
        rows = alternate(ways, bench.plan.repeats, at_most=bench.plan.at_most, progress=bench.progress)
    return [row.to_json() for row in rows]


def _by_window(bench: Bench, plan: GrowthPlan) -> Iterator[Way]:
    for layout in plan.layouts:
        most = len(bench.texts.documents) if layout == "late" else plan.most or bench.plan.windows.middle
        for size in plan.windows:
            if size <= most:
                documents = bench.texts.documents[:size]
                yield _way(bench, layout, f"warm_{layout}_by_window_{size}", bench.texts, documents, "window", size)


def _by_tokens(bench: Bench, plan: GrowthPlan) -> Iterator[Way]:
    for texts in plan.texts:
        documents = texts.documents[: bench.plan.windows.small]
        for layout in plan.layouts:
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

    for layout in plan.layouts:
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
            yield clients_way(name, port, clients, bench.texts, window, bench.plan.windows.middle, about, stack)


def _by_cold_clients(bench: Bench, plan: GrowthPlan) -> Iterator[Way]:
    """Some short documents that nobody asked for before, in each request: what is new is encoded together."""
    if not plan.clients or not plan.texts:
        return
    from connector.benchmark.http_serving import AFTERWARDS

    texts = min(plan.texts, key=lambda texts: texts.tokens)
    requests = min(_REQUESTS, len(texts.documents))
    window = len(texts.documents) // requests
    windows = [texts.documents[at * window : (at + 1) * window] for at in range(requests)]
    for layout in plan.layouts:
        reranker = bench.backbone.reranker(layout, MEMORY)
        for clients in [clients for clients in plan.clients if clients <= requests]:
            name = f"cold_{layout}_by_clients_{clients}"

            def call(
                turn: int, name: str = name, clients: int = clients, reranker: Reranker = reranker
            ) -> dict[str, float]:
                def ask(at: int) -> None:
                    rerank_once(reranker, texts.query(turn * requests + at), windows[at], {})

                with ThreadPoolExecutor(clients) as pool:
                    started = time.perf_counter()
                    list(pool.map(ask, range(requests)))
                    seconds = (time.perf_counter() - started) / requests
                time.sleep(AFTERWARDS)
                return {name: seconds}

            about = {
                "layout": layout,
                "by": "clients_cold",
                "value": clients,
                "window": window,
                "tokens": texts.tokens,
                "requests": requests,
            }
            yield Way(name, call, reranker.reader.clear_cache, about)
