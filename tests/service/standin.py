"""A reranker without a model, for tests of the protocol alone."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from connector.cancelling import CancelScope
from connector.documents import FirstStage, Hit, RankedHit, RerankResult, UsedSignal, Workings
from connector.golden import GOLDEN_QUERY

Behaviour = Callable[[str, Sequence[Any], FirstStage, CancelScope], RerankResult]


class StandIn:
    """Scores a document by the words it shares with the query; keeps what it was asked.

    Args:
        behaviour: answers instead, except for the golden query.
    """

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.behaviour = behaviour
        self.asked: list[tuple[str, list[Any], FirstStage, CancelScope]] = []
        self.modes: list[str | None] = []
        self.read: list[tuple[str | None, int | None]] = []
        self.golden = threading.Event()

    def rerank(
        self,
        query: str,
        documents: Sequence[str | Mapping[str, Any] | Hit],
        *,
        first_stage: FirstStage = None,
        deadline_ms: float | None = None,
        mode: str | None = None,
        scope: CancelScope | None = None,
        instruction: str | None = None,
        most_tokens: int | None = None,
    ) -> RerankResult:
        self.read.append((instruction, most_tokens))
        self.modes.append(mode)
        if query == GOLDEN_QUERY:
            self.golden.set()
            order = sorted(range(len(documents)), key=lambda index: "cat" not in str(documents[index]))
            return RerankResult(tuple(RankedHit(i, -float(n)) for n, i in enumerate(order)), True)
        # Only the golden query comes without.
        assert scope is not None
        self.asked.append((query, list(documents), first_stage, scope))
        if self.behaviour is not None:
            return self.behaviour(query, documents, first_stage, scope)
        return overlap(query, documents, first_stage)


def overlap(query: str, documents: Sequence[Any], first_stage: FirstStage = None) -> RerankResult:
    """The first stage is kept, and counts nothing."""
    words = set(query.lower().split())
    counts = [float(len(words & set(str(document).lower().split()))) for document in documents]
    mean = sum(counts) / len(counts)
    deviation = math.sqrt(sum((count - mean) ** 2 for count in counts) / len(counts)) or 1.0
    scores = [(count - mean) / deviation for count in counts]
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    hits = tuple(
        RankedHit(
            index,
            scores[index],
            scores[index],
            first_stage_score=first_stage[index] if isinstance(first_stage, list) else None,
            passage=(0, len(str(documents[index]))),
            signals=(scores[index],),
            looked_at=_shared(query, documents[index]),
        )
        for index in order
    )
    return RerankResult(
        hits,
        True,
        timings_ms={"encode": 1.25, "read": 0.5, "total": 2.0},
        gates=(UsedSignal("probe", 1.0),),
        workings=Workings((1.0,), (0.0,), (1.0,), 0.0, 1.0, 0.0),
    )


class Deaf:
    """A reranker's behaviour that does not hear that its request is over: as a batch that cannot be stopped.

    Args:
        after: so many windows are ranked at once before.
    """

    def __init__(self, after: int = 0) -> None:
        self._after = after
        self.release = threading.Event()

    def __call__(
        self, query: str, documents: Sequence[Any], first_stage: FirstStage, scope: CancelScope
    ) -> RerankResult:
        self._after -= 1
        if self._after < 0:
            assert self.release.wait(60)
        return overlap(query, documents, first_stage)

    @contextmanager
    def held(self) -> Iterator[None]:
        """It goes on at the end, and has not gone on before."""
        try:
            yield
            assert not self.release.is_set()
        finally:
            self.release.set()


def _shared(query: str, document: Any) -> tuple[tuple[int, int, float], ...]:
    """The document's words that the query has too, as what was looked at."""
    words = set(re.findall(r"\w+", query.lower()))
    found = re.finditer(r"\w+", str(document).lower())
    return tuple((word.start(), word.end(), 1.0) for word in found if word[0] in words)


def not_reranked(reason: str) -> Behaviour:
    def behaviour(query: str, documents: Sequence[Any], first_stage: FirstStage, scope: CancelScope) -> RerankResult:
        return RerankResult(tuple(RankedHit(i, 0.0) for i in range(len(documents))), False, reason)

    return behaviour
