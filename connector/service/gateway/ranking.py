"""The windows of searches, ranked within the limits that all requests share."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from starlette.requests import Request

from connector.documents import SupportsRerank
from connector.service.admission import Admission, Deadline, DeadlinePassed, QueueFull
from connector.service.errors import Failure, ServiceError
from connector.service.loading import Loading
from connector.service.metrics import Metrics
from connector.service.scoring import Ranking, RerankJob, fall_back, rank

__all__ = ["rank_windows"]

_log = logging.getLogger(__name__)


async def rank_windows(
    request: Request, loading: Loading, windows: Sequence[RerankJob], deadline: Deadline
) -> list[Ranking]:
    """Rank one after the other; what cannot be ranked stays in first-stage order, with a reason. Never raises."""
    if not windows:
        return []
    metrics: Metrics = request.app.state.metrics
    admission: Admission = request.app.state.admission
    try:
        reranker = metrics.measured(loading.reranker())
        rankings = await admission.run(lambda: [_rank(reranker, window, deadline) for window in windows], deadline)
    except ServiceError as error:
        reason = "loading" if error.failure is Failure.LOADING else f"failed: {error.message}"
        rankings = _unranked(windows, reason)
    except QueueFull:
        rankings = _unranked(windows, "overloaded")
    except DeadlinePassed:
        rankings = _unranked(windows, "deadline")
    except Exception as error:
        _log.exception("searches could not be reranked")
        rankings = _unranked(windows, f"failed: {type(error).__name__}")
    metrics.rankings(rankings)
    return rankings


def _rank(reranker: SupportsRerank, window: RerankJob, deadline: Deadline) -> Ranking:
    remaining = deadline.remaining_ms()
    if remaining == 0:
        return fall_back(window, "deadline")
    try:
        return rank(reranker, window, remaining)
    except ServiceError as error:
        return fall_back(window, f"failed: {error.message}")


def _unranked(windows: Sequence[RerankJob], reason: str) -> list[Ranking]:
    return [fall_back(window, reason) for window in windows]
