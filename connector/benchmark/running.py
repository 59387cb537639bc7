"""The benchmark: which ways are timed, on which windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any, Literal

from connector.benchmark.backbones import SharedBackbone
from connector.benchmark.machine import describe_machine
from connector.benchmark.measuring import Timing, Way, alternate
from connector.benchmark.operations import LayerShape, window_operations
from connector.benchmark.report import WindowSizes, ratios
from connector.benchmark.texts import Texts
from connector.errors import BackboneError
from connector.evaluation.provenance import memory_in_use
from connector.reranking.reranker import Reranker
from connector.sections import Layout

__all__ = ["MEMORY", "PARTS", "Bench", "Part", "Plan", "rerank_once"]

Part = Literal["warm", "cold", "router", "cross-encoder", "icr", "floor", "http", "large"]
PARTS: tuple[Part, ...] = ("warm", "cold", "router", "cross-encoder", "icr", "floor", "http", "large")
_LAYOUTS: tuple[Layout, ...] = ("solo", "late")
MEMORY = 1 << 40
"""Bytes: cached documents of a benchmark are never thrown out."""


@dataclass(frozen=True)
class Plan:
    """What is timed, and how often.

    Attributes:
        windows: sizes of the windows.
        parts: names of ``PARTS``.
        repeats: runs of each way.
        at_most: seconds after which a way is not run again.
    """

    windows: WindowSizes
    parts: frozenset[Part] = frozenset(PARTS)
    repeats: int = 5
    at_most: float = 20.0


def rerank_once(
    reranker: Reranker, query: str, documents: Sequence[str], names: Mapping[str, str]
) -> dict[str, float]:
    """Rerank a window, documents in first-stage order.

    Args:
        reranker: what is timed.
        query, documents: the window.
        names: stage of ``RerankResult.timings_ms`` -> name of its row.

    Returns:
        Seconds of these stages.

    Raises:
        BackboneError: the window was not reranked.
    """
    result = reranker.rerank(query, documents, first_stage="order")
    if not result.reranked:
        raise BackboneError(f"a window could not be reranked: {result.reason}")
    timings = result.timings_ms or {}
    return {name: timings[stage] / 1000 for stage, name in names.items() if stage in timings}


@dataclass
class Bench:
    """One run of the benchmark.

    Attributes:
        backbone: the LLM.
        texts: at least as many documents as the largest window.
        plan: what is timed.
        progress: called with what is done next.
        warm: layout -> reranker whose documents stay cached; other measurements use them too.
        skipped: name -> why there is no such row.
    """

    backbone: SharedBackbone
    texts: Texts
    plan: Plan
    progress: Callable[[str], None] = lambda name: None
    warm: dict[Layout, Reranker] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def run(self, command: str) -> dict[str, Any]:
        """The report, ready for JSON.

        Args:
            command: how the run was started, for the report.

        Raises:
            BackboneError, MissingExtraError: a part cannot be run.
        """
        memory = {"model_loaded": memory_in_use()}
        machine = describe_machine(self.backbone, self.texts, self.plan.repeats, self.plan.at_most, command)
        for layout in _LAYOUTS:
            self.warm[layout] = self.backbone.reranker(layout, MEMORY)
        with ExitStack() as stack:
            ways = list(self._ways(stack))
            rows = alternate(ways, self.plan.repeats, at_most=self.plan.at_most, progress=self.progress)
        rows += self._floor_rows(rows)
        memory["at_the_end"] = memory_in_use()
        found, made = ratios(rows, self.plan.windows, self._layout)
        return {
            "machine": machine,
            "rows": [row.to_json() for row in rows],
            "ratios": found,
            "ratios_of": made,
            "memory_bytes": memory,
            "cached_document": {layout: self._cached(layout) for layout in _LAYOUTS},
            "operations": {
                layout: {
                    str(size): self._operations(layout, size)
                    for size in (self.plan.windows.small, self.plan.windows.middle)
                }
                for layout in _LAYOUTS
            },
            "stand_in_heads": [layout for layout in _LAYOUTS if self.backbone.stands_in(layout)],
            "skipped": self.skipped,
        }

    @property
    def _layout(self) -> Layout:
        """The layout of the settings; ``joint`` has no cold documents of its own."""
        named = self.backbone.settings.backbone.layout
        return "late" if named == "joint" else named

    def _ways(self, stack: ExitStack) -> Iterator[Way]:
        parts, windows = self.plan.parts, self.plan.windows
        if "warm" in parts:
            for size in (windows.small, windows.middle):
                for layout in _LAYOUTS:
                    yield self._warm_way(layout, size)
        if "large" in parts:
            yield self._warm_way("late", windows.large)
        if "router" in parts:
            yield from self._router_ways()
        if "cross-encoder" in parts:
            yield from self._cross_encoder_ways()
        if "http" in parts:
            yield from self._http_ways(stack)
        if "cold" in parts:
            for size in (windows.small, windows.middle):
                for layout in _LAYOUTS:
                    yield self._cold_way(layout, size)
        if "icr" in parts:
            yield from self._icr_ways()
        if "floor" in parts:
            yield from self._gemm_ways()

    def _warm_way(self, layout: Layout, size: int) -> Way:
        names = {
            "read": f"tail_{layout}_{size}",
            "tokenize": f"tokenize_{layout}_{size}",
            "score": f"fusion_{layout}_{size}",
        }
        documents = self.texts.documents[:size]

        def call(turn: int) -> dict[str, float]:
            return rerank_once(self.warm[layout], self.texts.query(turn), documents, names)

        return Way(f"warm_{layout}_{size}", call, about=self._about(layout, size))

    def _cold_way(self, layout: Layout, size: int) -> Way:
        reranker = self.backbone.reranker(layout, MEMORY)
        documents = self.texts.documents[:size]
        names = {"encode": f"encode_{layout}_{size}"}

        def call(turn: int) -> dict[str, float]:
            return rerank_once(reranker, self.texts.query(turn), documents, names)

        # The small window warms up for the others.
        first = size == self.plan.windows.small
        about = self._about(layout, size)
        return Way(f"cold_{layout}_{size}", call, reranker.reader.clear_cache, about, warm_up=first)

    def _router_ways(self) -> Iterator[Way]:
        bundle = self.warm[self._layout].routes.bundle
        if bundle is None:
            self.skipped["router"] = f"there is no router for the layout {self._layout}: the heads are static"
            return
        from connector.routing.query_embedding import QueryEmbedding

        made = bundle.metadata.embedding
        embedding = QueryEmbedding(made.form, made.layers, made.pooling, made.features)
        reader = self.warm[self._layout].reader

        def call(turn: int) -> None:
            bundle.route(embedding.of_query(reader, self.texts.query(turn)))

        used = bundle.metadata.kappa != 0
        yield Way("router", call, about={"used": used, "note": "" if used else "this router keeps to its static set"})

    def _cross_encoder_ways(self) -> Iterator[Way]:
        from connector.backbone.torch_runtime.cpu.cores import CoreSharing
        from connector.benchmark.cross_encoder import best_batch, make_peers

        queries = [text.ids.tolist() for text in self.backbone.tokenizer.encode_user(self.texts.queries)]
        sizes = (self.plan.windows.small, self.plan.windows.middle)
        ids = [text.ids.tolist() for text in self.backbone.tokenizer.encode_user(self.texts.documents[: max(sizes)])]
        threads = self.backbone.runtime.threads
        device = self.backbone.device
        for peer in CoreSharing.of_process().run(lambda: make_peers(threads, device)):
            self.progress(f"cross_encoder_{peer.name}: batch size")
            batch = best_batch(peer, queries[0], ids[: sizes[0 if device == "cpu" else 1]])
            for size in sizes:

                def call(turn: int, score: Any = peer.score, size: int = size, batch: int = batch) -> None:
                    score(queries[turn % len(queries)], ids[:size], batch)

                about = {"window": size, "tokens": self.texts.tokens, "batch": batch, "runs_on": peer.runs_on}
                yield Way(f"cross_encoder_{peer.name}_{size}", call, about=about, warm_up=size == sizes[0])

    def _http_ways(self, stack: ExitStack) -> Iterator[Way]:
        from connector.benchmark.http_serving import WARM_UP, Client, clients_way, serving

        size = self.plan.windows.small
        reranker, documents = self.warm[self._layout], self.texts.documents[:size]
        port = stack.enter_context(serving(reranker, self.backbone.settings))
        client = Client(port)
        stack.callback(client.close)

        def ask(turn: int) -> dict[str, float]:
            for warming in range(WARM_UP if turn < 0 else 0):
                client.rerank(self.texts.query(turn - 1 - warming), documents)
            served = client.rerank(self.texts.query(turn), documents)
            overhead = served.seconds - served.rerank
            return {
                f"http_{size}": served.seconds,
                f"http_overhead_{size}": overhead,
                f"http_fusion_{size}": served.fusion,
            }

        about = self._about(self._layout, size)
        yield Way(f"http_{size}", ask, about=about)

        for clients in (1, 8):
            known = self.plan.windows.middle
            yield clients_way(f"clients_{clients}_{size}", port, clients, self.texts, size, known, about, stack)

    def _icr_ways(self) -> Iterator[Way]:
        reranker = self.backbone.reranker("joint")
        for size in (self.plan.windows.small, self.plan.windows.middle):
            documents = self.texts.documents[:size]
            # Labels and separators of the joint prompt take some tokens of their own.
            if size * self.texts.tokens * 1.1 > self.backbone.runtime.shape.max_positions:
                self.skipped[f"icr_{size}"] = (
                    f"one prompt of {size} documents is longer than the LLM's "
                    f"{self.backbone.runtime.shape.max_positions} positions"
                )
                continue

            def call(turn: int, documents: Sequence[str] = documents) -> None:
                rerank_once(reranker, self.texts.query(turn), documents, {})

            yield Way(f"icr_{size}", call, about=self._about("joint", size), warm_up=False)

    def _gemm_ways(self) -> Iterator[Way]:
        from connector.backbone.torch_runtime.cpu.cores import CoreSharing
        from connector.benchmark.floor import gemm_way

        device = self.backbone.device
        sharing = CoreSharing.of_process()
        layer = LayerShape.of(self.backbone.runtime.shape, self.backbone.path)
        dtype = self.backbone.runtime.precision.partition("-")[0]
        dtype = dtype if dtype != "int8" else "float32"
        tokens, windows = self.texts.tokens, self.plan.windows
        layouts = (False, True) if device == "cpu" else (False,)
        counts = (1, windows.small) if device == "cpu" else (windows.small, windows.middle)
        for packed, rows in product(layouts, [tokens * count for count in counts]):
            name = f"gemm_{'packed' if packed else 'plain'}_{rows}"
            try:
                run, operations = sharing.run(partial(gemm_way, layer, rows, dtype, packed=packed, device=device))
            except BackboneError as error:
                self.skipped[name] = str(error)
                continue

            def call(turn: int, run: Callable[[], float] = run, name: str = name) -> dict[str, float]:
                return {name: run()}

            yield Way(name, call, about={"rows": rows, "dtype": dtype, "operations": operations})

    def _floor_rows(self, rows: Sequence[Timing]) -> list[Timing]:
        """What the operations of the encode take at the better of the measured rates."""
        products = [row for row in rows if row.name.startswith("gemm_")]
        if not products:
            return []
        best = max(products, key=lambda row: float(row.about["operations"]) / row.seconds)
        found = []
        for layout in _LAYOUTS:
            for size in (self.plan.windows.small, self.plan.windows.middle):
                needed = self._operations(layout, size)["encode"]
                share = needed / float(best.about["operations"])
                about = {**self._about(layout, size), "operations": needed, "rate_of": best.name}
                times = {
                    name: getattr(best, name) * share
                    for name in ("seconds", "least", "most", "quarter", "three_quarters")
                }
                found.append(replace(best, name=f"floor_{layout}_{size}", about=about, **times))
        return found

    def _operations(self, layout: Layout, size: int) -> dict[str, float]:
        documents, query = self.texts.documents[:size], self.texts.query(0)
        return window_operations(self.backbone, self.warm[layout].routes.pool(), layout, query, documents)

    def _about(self, layout: Layout, size: int) -> dict[str, Any]:
        return {"layout": layout, "window": size, "tokens": self.texts.tokens}

    def _cached(self, layout: Layout) -> dict[str, float]:
        statistics = self.warm[layout].reader.statistics()
        if not statistics.entries:
            return {}
        # Documents of other lengths may be there too.
        bytes_a_token = statistics.bytes / statistics.tokens
        return {
            "bytes": bytes_a_token * self.texts.tokens,
            "tokens": self.texts.tokens,
            "bytes_a_token": bytes_a_token,
        }
