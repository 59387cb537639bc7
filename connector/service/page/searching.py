"""The search behind the page: the first stage, then reranking, in one thread, within the limits that all share."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.requests import Request

from connector.cancelling import CancelScope
from connector.documents import Hit, RerankResult, clean_text, document_text
from connector.engines.open_engine import open_engine
from connector.errors import RhConnectorError
from connector.sections import Settings
from connector.service.admission import Admission, QueueFull, while_connected
from connector.service.deadlines import scope_of
from connector.service.errors import ServiceError
from connector.service.loading import Loading
from connector.service.metrics import Metrics
from connector.service.page.asking import Asked
from connector.service.scoring import RerankJob, rank

__all__ = ["Found", "search"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to.

    Attributes:
        hits: of the first stage, best first.
        texts: of the hits, as they were scored.
        result: of reranking; None where there was none.
        notice: what the reader has to be told, or None.
        timings_ms: milliseconds of ``first stage`` and of the stages of reranking.
        total_ms: milliseconds of all.
    """

    hits: tuple[Hit, ...] = ()
    texts: tuple[str, ...] = ()
    result: RerankResult | None = None
    notice: str | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    total_ms: float = 0.0


async def search(request: Request, asked: Asked, loading: Loading, settings: Settings) -> Found:
    """Search and rerank. Whatever fails is told in the notice; the first stage's hits are shown where there are any.

    Raises:
        ClientGone: nobody waits for the page.
        ServiceError: the request's deadline is no number.
    """
    scope = scope_of(request.headers, settings, time.monotonic())
    metrics: Metrics = request.app.state.metrics
    admission: Admission = request.app.state.admission

    def work() -> Found:
        return _search(asked, loading, settings, metrics, scope)

    try:
        found = await while_connected(request, lambda: admission.run(work, scope), scope)
        # For the access log.
        request.state.results = [] if found.result is None else [found.result]
        return found
    except QueueFull:
        return Found(notice="Too many requests wait already (serve.max_queue). Try again in a moment.")


def _search(asked: Asked, loading: Loading, settings: Settings, metrics: Metrics, scope: CancelScope) -> Found:
    began = time.perf_counter()
    try:
        with open_engine(settings) as engine:
            hits = tuple(engine.search(asked.query, asked.window))
    except RhConnectorError as error:
        return Found(notice=f"The search failed: {error}")
    except Exception as error:
        _log.exception("the first stage of the page's search failed")
        return Found(notice=f"The search failed ({type(error).__name__}); the service's log says more.")
    first_stage = (time.perf_counter() - began) * 1000
    fields = tuple(settings.engine.field_weights())
    texts = tuple(clean_text(document_text(hit.fields, fields)) for hit in hits)
    result, notice = _rerank(asked, hits, texts, loading, metrics, scope) if hits else (None, None)
    stages = {} if result is None else dict(result.timings_ms)
    stages.pop("total", None)
    return Found(
        hits,
        texts,
        result,
        notice,
        {"first stage": first_stage, **stages},
        (time.perf_counter() - began) * 1000,
    )


def _rerank(
    asked: Asked,
    hits: tuple[Hit, ...],
    texts: tuple[str, ...],
    loading: Loading,
    metrics: Metrics,
    scope: CancelScope,
) -> tuple[RerankResult | None, str | None]:
    scores = [hit.score for hit in hits if hit.score is not None]
    job = RerankJob(asked.query, texts, scores if len(scores) == len(hits) else "order", asked.mode)
    try:
        result = rank(metrics.measured(loading.reranker()), job, scope)
    except ServiceError as error:
        metrics.failure(error.failure)
        return None, f"Not reranked: {error.message}."
    metrics.results([result])
    if result.reranked:
        return result, None
    return None, f"Not reranked ({result.reason}): the hits keep the first stage's order."
