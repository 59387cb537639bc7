"""From one query with its documents to a result, or to the first-stage order, or to an honest error."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from connector.cancelling import Cancelled, CancelScope
from connector.documents import FirstStage, RankedHit, RerankResult, SupportsRerank
from connector.errors import RequestError
from connector.sections import Mode
from connector.service.admission import Admission
from connector.service.errors import Failure, ServiceError
from connector.service.numbers import json_number, probability

__all__ = ["RerankJob", "check_result", "fall_back", "json_score", "rank", "rank_in_time"]

_log = logging.getLogger(__name__)


_LONGEST_REASON = 200
# Nothing was reranked because there was nothing to rerank: not a failure.
_NOTHING_TO_DO = frozenset({"no documents", "empty documents"})


@dataclass(frozen=True, slots=True)
class RerankJob:
    """What the reranker is asked: one query with its documents; the rest as ``SupportsRerank`` has it."""

    query: str
    documents: Sequence[str]
    first_stage: FirstStage = None
    mode: Mode | None = None
    instruction: str | None = None
    most_tokens: int | None = None
    second: bool = True
    """Whether the second model of a cascade is wanted, where there is one."""


def rank(reranker: SupportsRerank, job: RerankJob, scope: CancelScope) -> RerankResult:
    """Rerank the documents of one query.

    Raises:
        ServiceError: the request is wrong; or nothing was reranked and there is no first stage to fall back on, so
            that any order would be made up.
    """
    over = scope.reason
    if over is not None:
        return fall_back(job, over)
    try:
        result = reranker.rerank(
            job.query,
            job.documents,
            first_stage=job.first_stage,
            mode=job.mode,
            scope=scope,
            instruction=job.instruction,
            most_tokens=job.most_tokens,
        )
        check_result(result, len(job.documents))
    except RequestError as error:
        raise ServiceError(Failure.INVALID, str(error)) from None
    except Exception as error:
        # By its contract a reranker does not raise; whatever happens, a search with a first stage goes on.
        _log.exception("the reranker failed")
        return fall_back(job, f"failed: {type(error).__name__}", Failure.INTERNAL)
    if not result.reranked and (job.first_stage is not None or result.reason not in _NOTHING_TO_DO):
        # A reason may quote an exception, which may be long and have line breaks.
        reason = " ".join((result.reason or "failed").split())[:_LONGEST_REASON]
        return fall_back(job, reason, timings_ms=result.timings_ms)
    return result


async def rank_in_time(
    admission: Admission,
    jobs: Sequence[RerankJob],
    rank_one: Callable[[RerankJob, CancelScope], RerankResult],
    scope: CancelScope,
    begun: Callable[[], None] = lambda: None,
) -> list[RerankResult]:
    """Rank one after the other in a thread. What is not done when the scope ends stays in first-stage order.

    Args:
        admission: lets the thread in.
        jobs: of one request.
        rank_one: ranks a job in that thread, in a scope of its own.
        scope: of the request.
        begun: called in that thread, before the first job.

    Raises:
        QueueFull: the thread was not let in.
        ServiceError: the scope ended, and a job that is not done carries no first stage.
    """
    done: list[RerankResult] = []
    scopes: list[CancelScope] = []

    def work() -> None:
        begun()
        for at, job in enumerate(jobs):
            with scope.until(scope.deadline) as own:
                own.share = 1 / (len(jobs) - at) if job.second else 0.0
                scopes.append(own)
                done.append(rank_one(job, own))

    try:
        await admission.run(work, scope)
    except Cancelled as ended:
        # The thread may still be adding to the list.
        found = done[:]
        if len(scopes) > len(found) and ended.reason == "deadline":
            # A second model was still reading: the first one's order is there.
            tell = scopes[len(found)].found
            provisional = None if tell is None else tell()
            found += [provisional] if isinstance(provisional, RerankResult) else []
        return [*found, *(fall_back(job, ended.reason) for job in jobs[len(found) :])]
    return done


def fall_back(
    job: RerankJob,
    reason: str,
    failure: Failure = Failure.UNAVAILABLE,
    timings_ms: Mapping[str, float] | None = None,
) -> RerankResult:
    """The first-stage order, with scores between 0 and 1 that strictly decrease: clients sort by them.

    Raises:
        ServiceError: the job carries no first stage.
    """
    if job.first_stage is None:
        raise ServiceError(
            failure,
            f'not reranked ({reason}); send first_stage_scores or "first_stage": "order" to get the first-stage'
            " order back instead of this error",
        )
    count = len(job.documents)
    first_stage = None if job.first_stage == "order" else job.first_stage
    order: Sequence[int] = range(count)
    if first_stage is not None:
        scores = first_stage
        order = sorted(order, key=lambda index: -scores[index])
    hits = tuple(
        RankedHit(
            index,
            (count - place) / (count + 1),
            first_stage_score=None if first_stage is None else first_stage[index],
            first_stage_rank=place + 1,
        )
        for place, index in enumerate(order)
    )
    return RerankResult(hits, False, reason, timings_ms=timings_ms or {})


def json_score(result: RerankResult, hit: RankedHit) -> float:
    """The score of a result's hit as a JSON number between 0 and 1."""
    if not result.reranked and hit.first_stage_rank is not None:
        # The first-stage order: fall_back's scores are between 0 and 1 already.
        return json_number(hit.score)
    return probability(hit.score)


def check_result(result: RerankResult, count: int) -> None:
    """Make sure that every document came back once, with a number for a score.

    Raises:
        RuntimeError: not so.
    """
    if sorted(hit.index for hit in result.hits) != list(range(count)):
        raise RuntimeError(f"the reranker did not give every document back once ({len(result.hits)} of {count})")
    if not all(math.isfinite(hit.score) for hit in result.hits):
        raise RuntimeError("the reranker gave a score that is not a number")
