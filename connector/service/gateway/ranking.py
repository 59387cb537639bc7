"""The hits of searches, reranked within the limits that all requests share."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from starlette.requests import Request

from connector.cancelling import CancelScope
from connector.documents import RerankResult, SupportsRerank
from connector.service.admission import Admission, QueueFull
from connector.service.errors import Failure, ServiceError
from connector.service.loading import Loading
from connector.service.metrics import Metrics
from connector.service.scoring import RerankJob, fall_back, rank, rank_in_time

__all__ = ["rank_all"]

_log = logging.getLogger(__name__)


async def rank_all(
    request: Request, loading: Loading, jobs: Sequence[RerankJob], scope: CancelScope
) -> list[RerankResult]:
    """Rank one after the other; what cannot be ranked stays in first-stage order, with a reason. Never raises."""
    if not jobs:
        return []
    metrics: Metrics = request.app.state.metrics
    admission: Admission = request.app.state.admission
    try:
        reranker = metrics.measured(loading.reranker())
        results = await rank_in_time(admission, jobs, lambda job, own: _rank(reranker, job, own), scope)
    except ServiceError as error:
        reason = "loading" if error.failure is Failure.LOADING else f"failed: {error.message}"
        results = _unranked(jobs, reason)
    except QueueFull:
        results = _unranked(jobs, "overloaded")
    except Exception as error:
        _log.exception("searches could not be reranked")
        results = _unranked(jobs, f"failed: {type(error).__name__}")
    metrics.results(results)
    request.state.results = [*getattr(request.state, "results", ()), *results]
    return results


def _rank(reranker: SupportsRerank, job: RerankJob, scope: CancelScope) -> RerankResult:
    try:
        return rank(reranker, job, scope)
    except ServiceError as error:
        return fall_back(job, f"failed: {error.message}")


def _unranked(jobs: Sequence[RerankJob], reason: str) -> list[RerankResult]:
    return [fall_back(job, reason) for job in jobs]
