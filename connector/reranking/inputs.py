"""What comes in: texts with what the first stage says of them; and how it goes back where nothing was reranked."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from connector.documents import FirstStage, RankedHit, RerankResult
from connector.errors import RequestError
from connector.heads.pins import finite_score

__all__ = ["WITHOUT_TEXT", "Input", "first_stage_of", "unchanged"]

WITHOUT_TEXT = -30.0
"""Log-odds of a document without text, where scores are log-odds: no other comes near it."""


@dataclass(frozen=True, slots=True)
class Input:
    """One document of a request.

    Attributes:
        text: what is read of it.
        id: its id, where it has one.
        score: its first-stage score, of a hit that has one.
    """

    text: str
    id: str | None
    score: float | None


def first_stage_of(
    given: FirstStage, inputs: Sequence[Input], are_hits: bool
) -> tuple[list[float] | None, list[int] | None]:
    """First-stage scores and ranks (from 1), each None where unknown.

    Args:
        given: see ``Reranker.rerank``.
        inputs: the documents.
        are_hits: all of them are first-stage hits, in their order.

    Raises:
        RequestError: it is none of what may be given, or not one finite number for each document.
    """
    if given is None and are_hits and inputs:
        scores = [item.score for item in inputs]
        # Hits come in first-stage order; scores that are missing for one, or are none, are of no use for the others.
        known = [finite_score(score) for score in scores if score is not None and not math.isnan(score)]
        return (known if len(known) == len(scores) else None), list(range(1, len(inputs) + 1))
    if given is None:
        return None, None
    if given == "order":
        return None, list(range(1, len(inputs) + 1))
    if isinstance(given, str):
        raise RequestError(f"first_stage = '{given}': give \"order\" or one score for each document")
    if len(given) != len(inputs):
        raise RequestError(f"first_stage has {len(given)} scores for {len(inputs)} documents; give one for each")
    for at, score in enumerate(given):
        if isinstance(score, bool) or not isinstance(score, int | float | np.number) or not _is_finite(score):
            raise RequestError(
                f"first_stage[{at}] = {score!r:.40} is not a finite number; give one, higher is better"
            )
    places = sorted(range(len(given)), key=lambda at: -given[at])
    ranks = [0] * len(given)
    for rank, at in enumerate(places, 1):
        ranks[at] = rank
    return [float(score) for score in given], ranks


def unchanged(
    inputs: Sequence[Input],
    order: Sequence[int],
    scores: Sequence[float] | None,
    ranks: Sequence[int] | None,
    reason: str,
    started: float,
) -> RerankResult:
    """The result of a request in which nothing was reranked.

    Args:
        inputs: the documents.
        order: their places, best first.
        scores, ranks: see ``first_stage_of``.
        reason: see ``RerankResult``.
        started: when the request came, in seconds of ``time.perf_counter``.
    """
    # Where there was nothing to read, no document is likely.
    highest = WITHOUT_TEXT if reason == "empty documents" else 0.0
    hits = tuple(
        RankedHit(
            index=at,
            # Strictly decreasing, so that whoever sorts by score keeps this order.
            score=highest + 1.0 / (place + 1),
            first_stage_score=None if scores is None else float(scores[at]),
            first_stage_rank=None if ranks is None else ranks[at],
            id=inputs[at].id,
        )
        for place, at in enumerate(order)
    )
    return RerankResult(hits, False, reason, timings_ms={"total": (time.perf_counter() - started) * 1000})


def _is_finite(score: float | np.number[Any]) -> bool:
    try:
        return math.isfinite(score)
    except OverflowError:
        # A whole number beyond all floats.
        return False
