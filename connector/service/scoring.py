"""From a window of documents to places and scores, or to the first-stage order, or to an honest error."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from connector.documents import FirstStage, RerankResult, SupportsRerank
from connector.errors import RequestError
from connector.service.errors import Failure, ServiceError
from connector.service.numbers import json_number, probability
from connector.settings import Mode

__all__ = ["Place", "Ranking", "RerankJob", "check_result", "fall_back", "rank"]

_log = logging.getLogger(__name__)


_LONGEST_REASON = 200
# Nothing was reranked because there was nothing to rerank: not a failure.
_NOTHING_TO_DO = frozenset({"no documents", "empty documents"})


@dataclass(frozen=True, slots=True)
class RerankJob:
    """One query with its documents, what the first stage said of them, how heads are chosen, and whether to tell."""

    query: str
    documents: Sequence[str]
    first_stage: FirstStage = None
    mode: Mode | None = None
    tells_route: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """One document in a ranking: its place in the input, its score in (0, 1), its score as the reranker gave it."""

    index: int
    score: float
    raw_score: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """All documents of a window, best first."""

    places: tuple[Place, ...]
    reranked: bool
    reason: str | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    route: Mapping[str, Any] = field(default_factory=dict)

    def in_input_order(self) -> list[Place]:
        """The places, in the order in which the documents came."""
        return sorted(self.places, key=lambda place: place.index)


def rank(reranker: SupportsRerank, window: RerankJob, deadline_ms: float | None) -> Ranking:
    """Rerank one window.

    Raises:
        ServiceError: the request is wrong; or nothing was reranked and there is no first stage to fall back on, so
            that any order would be made up.
    """
    try:
        result = reranker.rerank(
            window.query,
            window.documents,
            first_stage=window.first_stage,
            deadline_ms=deadline_ms,
            mode=window.mode,
        )
        check_result(result, len(window.documents))
    except RequestError as error:
        raise ServiceError(Failure.INVALID, str(error)) from None
    except Exception as error:
        # By its contract a reranker does not raise; whatever happens, a search with a first stage goes on.
        _log.exception("the reranker failed")
        return fall_back(window, f"failed: {type(error).__name__}", Failure.INTERNAL)
    if not result.reranked and (window.first_stage is not None or result.reason not in _NOTHING_TO_DO):
        # A reason may quote an exception, which may be long and have line breaks.
        reason = " ".join((result.reason or "failed").split())[:_LONGEST_REASON]
        return fall_back(window, reason, timings_ms=result.timings_ms)
    places = tuple(Place(hit.index, probability(hit.score), json_number(hit.score)) for hit in result.hits)
    return Ranking(
        places, result.reranked, result.reason, result.timings_ms, _route(result) if window.tells_route else {}
    )


def _route(result: RerankResult) -> dict[str, Any]:
    if result.mode is None:
        return {}
    return {
        "mode": result.mode,
        "first_stage_gate": result.first_stage_gate,
        "deepest_layer": result.deepest_layer,
        "gates": [used.to_json() for used in result.gates],
    }


def fall_back(
    window: RerankJob,
    reason: str,
    failure: Failure = Failure.UNAVAILABLE,
    timings_ms: Mapping[str, float] | None = None,
) -> Ranking:
    """The first-stage order, with scores that strictly decrease: clients sort by them.

    Raises:
        ServiceError: the window carries no first stage.
    """
    if window.first_stage is None:
        raise ServiceError(
            failure,
            f'not reranked ({reason}); send first_stage_scores or "first_stage": "order" to get the first-stage'
            " order back instead of this error",
        )
    count = len(window.documents)
    order: Sequence[int] = range(count)
    if window.first_stage != "order":
        scores = window.first_stage
        order = sorted(order, key=lambda index: -scores[index])
    steps = [json_number((count - rank) / (count + 1)) for rank in range(count)]
    places = tuple(Place(index, score, score) for index, score in zip(order, steps, strict=True))
    return Ranking(places, False, reason, timings_ms or {})


def check_result(result: RerankResult, count: int) -> None:
    """Make sure that every document came back once, with a number for a score.

    Raises:
        RuntimeError: not so.
    """
    if sorted(hit.index for hit in result.hits) != list(range(count)):
        raise RuntimeError(f"the reranker did not give every document back once ({len(result.hits)} of {count})")
    if not all(math.isfinite(hit.score) for hit in result.hits):
        raise RuntimeError("the reranker gave a score that is not a number")
