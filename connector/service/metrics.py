"""What Prometheus reads of the service: counters, histograms and gauges of one application."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from connector import __version__
from connector.backbone.batching.work_queue import SchedulerStatistics
from connector.backbone.caching.counted_cache import Lookups
from connector.backbone.caching.document_cache import CacheStatistics
from connector.backbone.runtime import DeviceStatistics
from connector.cancelling import CancelScope
from connector.documents import FirstStage, Hit, RerankResult, SupportsRerank
from connector.sections import Mode
from connector.service.errors import Failure
from connector.service.paths import is_own

__all__ = ["FALLBACK_REASONS", "METRICS_PATH", "MeasuredRequests", "Metrics", "fallback_reason"]

T = TypeVar("T")
METRICS_PATH = "/metrics"

FALLBACK_REASONS = ("deadline", "overloaded", "loading", "failed", "other")
"""All values of the label ``reason``; what a result says may quote an exception and would have no bound."""

_OUTCOMES = ("reranked", "fallback", "error")
# Cached windows take a tenth of a second, new ones seconds on two cores.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


def fallback_reason(reason: str | None) -> str:
    """The one of ``FALLBACK_REASONS`` that a result's reason belongs to."""
    first = (reason or "").partition(":")[0].strip().lower()
    return first if first in FALLBACK_REASONS else "other"


class Metrics:
    """The metrics of one application, in a registry of its own: a process may hold many applications.

    Args:
        model: the setting ``backbone.model``, told in ``rh_build_info``.
    """

    def __init__(self, model: str) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._requests = Counter("rh_requests", "HTTP requests answered.", ["route", "status"], registry=registry)
        self._seconds = Histogram(
            "rh_request_seconds",
            "Time from a request's arrival to the end of its answer.",
            ["route"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._reranked = Counter(
            "rh_reranked",
            "Windows (a query with its documents) by outcome; a request answered with an error counts once.",
            ["outcome"],
            registry=registry,
        )
        self._fallbacks = Counter(
            "rh_fallback", "Windows answered in first-stage order, by reason.", ["reason"], registry=registry
        )
        self._documents = Counter("rh_documents", "Documents in the windows that were answered.", registry=registry)
        self._encoded = Counter("rh_passages_encoded", "Passages the model had to encode.", registry=registry)
        self._cached = Counter("rh_passages_cached", "Passages found in the document cache.", registry=registry)
        self._second_hits = Counter(
            "rh_second_hits", "Hits that the second model of a cascade has read, too.", registry=registry
        )
        self._second_skipped = Counter(
            "rh_second_skipped", "Reranked windows of which the second model has read no hit.", registry=registry
        )
        self._waiting = Gauge("rh_queue_length", "Requests that wait for the model.", registry=registry)
        self._places = Gauge("rh_queue_limit", "Most requests that may wait for the model.", registry=registry)
        self._running = Gauge("rh_running", "Requests that the model works on.", registry=registry)
        self._ready = Gauge("rh_model_ready", "1 once a golden query has been scored, else 0.", registry=registry)
        build = Info("rh_build", "The running version and its model.", registry=registry)
        build.info({"version": __version__, "model": model})
        # Memory, processor time and open files, where the system has /proc.
        ProcessCollector(registry=registry)
        # A rate needs the zero before the first event.
        for outcome in _OUTCOMES:
            self._reranked.labels(outcome)
        for reason in FALLBACK_REASONS:
            self._fallbacks.labels(reason)

    def watch_model(self, is_ready: Callable[[], bool]) -> None:
        """Ask this for ``rh_model_ready`` at every scrape."""
        self._ready.set_function(lambda: float(is_ready()))

    def watch_queue(self, inside: Callable[[], int], at_once: int, most: int) -> None:
        """Ask this for the requests that are inside, at every scrape: ``at_once`` run, up to ``most`` wait."""
        self._places.set(most)
        self._running.set_function(lambda: min(inside(), at_once))
        self._waiting.set_function(lambda: max(0, inside() - at_once))

    def watch_cache(self, statistics: Callable[[], CacheStatistics | None]) -> None:
        """Ask this for ``rh_cache_…`` and ``rh_disk_cache_…`` at every scrape; None: no reranker that has a cache."""
        self._registry.register(_Asked(statistics, _cache_metrics))

    def watch_second_cache(self, statistics: Callable[[], CacheStatistics | None]) -> None:
        """Ask this for ``rh_second_cache_…`` at every scrape; None: there is no cascade."""
        self._registry.register(_Asked(statistics, _second_cache_metrics))

    def watch_lookups(self, lookups: Callable[[], Mapping[str, Lookups] | None]) -> None:
        """Ask this for ``rh_cache_lookups`` at every scrape; None: no reranker that has a cache."""
        self._registry.register(_Asked(lookups, _lookup_metrics))

    def watch_scheduler(self, statistics: Callable[[], SchedulerStatistics | None]) -> None:
        """Ask this for ``rh_scheduler_…`` at every scrape; None: there is no LLM yet."""
        self._registry.register(_Asked(statistics, _scheduler_metrics))

    def watch_plan(self, plan: Callable[[], Mapping[str, str] | None]) -> None:
        """Ask this for ``rh_runtime_plan_info`` at every scrape; None: there is no LLM yet."""
        self._registry.register(_Asked(plan, _plan_metrics))

    def watch_device(self, statistics: Callable[[], DeviceStatistics | None]) -> None:
        """Ask this for ``rh_device_…`` at every scrape; None: there is no LLM yet, or no accelerator."""
        self._registry.register(_Asked(statistics, _device_metrics))

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered. ``route`` must come from a bounded set."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def results(self, results: Iterable[RerankResult]) -> None:
        """Count what an answer carries."""
        for result in results:
            self._documents.inc(len(result.hits))
            self._reranked.labels("reranked" if result.reranked else "fallback").inc()
            if not result.reranked:
                self._fallbacks.labels(fallback_reason(result.reason)).inc()

    def failure(self, failure: Failure) -> None:
        """Count a request that got an error instead of a result, unless the request itself was wrong."""
        if failure is Failure.OVERLOADED or failure.value.status >= 500:
            self._reranked.labels("error").inc()

    def measured(self, reranker: SupportsRerank) -> SupportsRerank:
        """The reranker, with its passages counted."""
        return _MeasuredReranker(reranker, self._count_passages)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics as text, in the format that the header ``Accept`` asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def _count_passages(self, result: RerankResult) -> None:
        self._encoded.inc(result.encoded)
        self._cached.inc(result.cached)
        if result.second_hits is not None:
            self._second_hits.inc(result.second_hits)
            self._second_skipped.inc(result.second_hits == 0)


class _Asked(Generic[T]):
    """Metrics of what is asked for at every scrape; none where the answer is None."""

    def __init__(self, ask: Callable[[], T | None], metrics_of: Callable[[T], Iterator[Metric]]) -> None:
        self._ask, self._metrics_of = ask, metrics_of

    def describe(self) -> Iterator[Metric]:
        """Nothing: what there is is known when it is collected."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All metrics, as prometheus_client asks for them."""
        found = self._ask()
        return iter(()) if found is None else self._metrics_of(found)


def _cache_metrics(found: CacheStatistics) -> Iterator[Metric]:
    """The document cache's own counts; those of the disk only where there is one."""
    yield GaugeMetricFamily("rh_cache_entries", "Encoded passages in memory.", found.entries)
    yield GaugeMetricFamily("rh_cache_bytes", "Bytes of encoded passages in memory.", found.bytes)
    yield GaugeMetricFamily("rh_cache_limit_bytes", "Most bytes of encoded passages in memory.", found.limit)
    yield CounterMetricFamily("rh_cache_evictions", "Passages that left memory to make room.", found.evictions)
    if not found.disk_limit:
        return
    yield CounterMetricFamily("rh_disk_cache_hits", "Passages and vectors that were read from disk.", found.disk_hits)
    yield CounterMetricFamily(
        "rh_disk_cache_evictions", "Passages and vectors removed from disk to make room.", found.disk_evictions
    )
    yield CounterMetricFamily(
        "rh_disk_cache_damaged",
        "Passages and vectors dropped from disk, for they could not be read.",
        found.disk_damaged,
    )
    yield CounterMetricFamily(
        "rh_disk_cache_unwritten", "Passages and vectors not written to disk.", found.disk_unwritten
    )
    yield GaugeMetricFamily("rh_disk_cache_entries", "Encoded passages on disk, and vectors.", found.disk_entries)
    yield GaugeMetricFamily("rh_disk_cache_bytes", "Bytes of encoded passages and vectors on disk.", found.disk_bytes)
    yield GaugeMetricFamily("rh_disk_cache_limit_bytes", "Most bytes on disk.", found.disk_limit)


def _second_cache_metrics(found: CacheStatistics) -> Iterator[Metric]:
    """What a cascade's second model holds; its files on disk are those of the first."""
    yield GaugeMetricFamily(
        "rh_second_cache_bytes", "Bytes of encoded passages in memory, of a cascade's second model.", found.bytes
    )
    yield GaugeMetricFamily(
        "rh_second_cache_limit_bytes", "Most bytes of encoded passages of a second model.", found.limit
    )


def _lookup_metrics(found: Mapping[str, Lookups]) -> Iterator[Metric]:
    """What hit rates are made of: one family for all caches."""
    family = CounterMetricFamily("rh_cache_lookups", "Look-ups by cache and result.", labels=["cache", "result"])
    for cache, (hits, misses) in found.items():
        family.add_metric([cache, "hit"], hits)
        family.add_metric([cache, "miss"], misses)
    yield family


def _scheduler_metrics(found: SchedulerStatistics) -> Iterator[Metric]:
    """The counts of the one queue before the LLM."""
    yield GaugeMetricFamily("rh_scheduler_waiting", "Works that wait for the model.", found.waiting)
    yield GaugeMetricFamily("rh_scheduler_waiting_tokens", "Tokens of these works.", found.waiting_tokens)
    yield CounterMetricFamily("rh_scheduler_batches", "Batches that the model began.", found.batches)
    yield CounterMetricFamily("rh_scheduler_works", "Works in these batches.", found.works)
    yield CounterMetricFamily("rh_scheduler_abandoned", "Works that left before they were done.", found.abandoned)


def _device_metrics(found: DeviceStatistics) -> Iterator[Metric]:
    """The accelerator's memory."""
    yield InfoMetricFamily("rh_device", "The accelerator that the LLM runs on.", {"device": found.name})
    for name, meaning, value in (
        ("memory_total", "Memory of the accelerator, or of the slice of it.", found.total),
        ("memory_free", "Memory of it that nobody took.", found.free),
        ("memory_process", "Memory of it that this process took.", found.process),
        ("cache", "Encoded passages on the accelerator.", found.kept),
        ("cache_limit", "Most encoded passages on the accelerator.", found.limit),
        ("pinned", "Encoded passages in pinned host memory.", found.pinned),
    ):
        yield GaugeMetricFamily(f"rh_device_{name}_bytes", meaning, value)
    yield CounterMetricFamily(
        "rh_device_shortages", "Times that memory did not suffice, and less was done at once.", found.shortages
    )


def _plan_metrics(found: Mapping[str, str]) -> Iterator[Metric]:
    """What the machine lets the LLM do, as labels."""
    yield InfoMetricFamily("rh_runtime_plan", "What this machine lets the LLM do.", dict(found))


class _MeasuredReranker:
    def __init__(self, reranker: SupportsRerank, count: Callable[[RerankResult], None]) -> None:
        self._reranker = reranker
        self._count = count

    def rerank(
        self,
        query: str,
        documents: Sequence[str | Mapping[str, Any] | Hit],
        *,
        first_stage: FirstStage = None,
        deadline_ms: float | None = None,
        mode: Mode | None = None,
        scope: CancelScope | None = None,
        instruction: str | None = None,
        most_tokens: int | None = None,
    ) -> RerankResult:
        result = self._reranker.rerank(
            query,
            documents,
            first_stage=first_stage,
            deadline_ms=deadline_ms,
            mode=mode,
            scope=scope,
            instruction=instruction,
            most_tokens=most_tokens,
        )
        self._count(result)
        return result


class MeasuredRequests:
    """Counts and times every request; ASGI middleware, around the one that refuses keys, inside ``OwnPaths``.

    The service's own paths are labels; all else that a route takes is ``gateway``, the rest ``other``.

    Args:
        app: what is measured.
        metrics: where it is counted.
        when_done: called with the request's scope, the route's label, the status and the seconds.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, when_done: Callable[[Scope, str, int, float], None]) -> None:
        self.app = app
        self._when_done = when_done
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.monotonic()
        # What raises is answered 500 further out.
        status = 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            route, seconds = _route(scope), time.monotonic() - started
            self._metrics.request(route, status, seconds)
            self._when_done(scope, route, status, seconds)


def _route(scope: Scope) -> str:
    if is_own(scope):
        return str(scope["path"])
    # The router notes the endpoint it found; clients choose the path, so it must not become a label.
    return "gateway" if "endpoint" in scope else "other"
