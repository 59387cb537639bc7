"""The search behind the page: the first stage, then reranking, within the limits that all share."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from starlette.requests import Request

from connector.cancelling import Cancelled, CancelScope
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
from connector.service.scoring import RerankJob, rank, rank_in_time

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
    began = time.monotonic()
    scope = scope_of(request.headers, settings, began)
    searching = _Searching(request, asked, loading, settings, scope)
    try:
        found = await while_connected(request, searching.found, scope)
    except QueueFull:
        return Found(notice="Too many requests wait already (serve.max_queue). Try again in a moment.")
    # For the access log.
    request.state.results = [] if found.result is None else [found.result]
    return replace(found, total_ms=(time.monotonic() - began) * 1000)


class _Searching:
    """One search of the page: first stage and reranking, each in a thread, for only the second has a deadline."""

    def __init__(
        self, request: Request, asked: Asked, loading: Loading, settings: Settings, scope: CancelScope
    ) -> None:
        self._metrics: Metrics = request.app.state.metrics
        self._admission: Admission = request.app.state.admission
        self._asked, self._loading, self._settings, self._scope = asked, loading, settings, scope

    async def found(self) -> Found:
        """See ``search``."""
        began = time.monotonic()
        without_deadline = CancelScope()
        try:
            with self._scope.waking(without_deadline.cancel):
                hits = await self._admission.run(self._hits, without_deadline)
        except Cancelled as ended:
            return Found(notice=f"The search ended early ({ended.reason}).")
        except RhConnectorError as error:
            return Found(notice=f"The search failed: {error}")
        except QueueFull:
            raise
        except Exception as error:
            _log.exception("the first stage of the page's search failed")
            return Found(notice=f"The search failed ({type(error).__name__}); the service's log says more.")
        first_stage = (time.monotonic() - began) * 1000
        fields = tuple(self._settings.engine.field_weights())
        texts = tuple(clean_text(document_text(hit.fields, fields)) for hit in hits)
        result, notice = await self._reranked(hits, texts) if hits else (None, None)
        stages = {} if result is None else dict(result.timings_ms)
        stages.pop("total", None)
        return Found(hits, texts, result, notice, {"first stage": first_stage, **stages})

    def _hits(self) -> tuple[Hit, ...]:
        with open_engine(self._settings) as engine:
            return tuple(engine.search(self._asked.query, self._asked.window))

    async def _reranked(
        self, hits: tuple[Hit, ...], texts: tuple[str, ...]
    ) -> tuple[RerankResult | None, str | None]:
        scores = [hit.score for hit in hits if hit.score is not None]
        job = RerankJob(self._asked.query, texts, scores if len(scores) == len(hits) else "order", self._asked.mode)
        try:
            reranker = self._metrics.measured(self._loading.reranker())
            (result,) = await rank_in_time(
                self._admission, [job], lambda job, own: rank(reranker, job, own), self._scope
            )
        except ServiceError as error:
            self._metrics.failure(error.failure)
            return None, f"Not reranked: {error.message}."
        except QueueFull:
            return None, "Not reranked (overloaded): the hits keep the first stage's order."
        self._metrics.results([result])
        if result.reranked:
            return result, None
        return None, f"Not reranked ({result.reason}): the hits keep the first stage's order."
