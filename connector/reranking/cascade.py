"""A cascade: what one LLM ranked first is read by a second, larger one.

Both say how likely each hit answers, as the logarithm of odds. Where both have read it, their mean counts. What the
second one says of the query as a whole, its mean difference from the first, moves the hits that it did not read: else
they would pass those that are doubted, only because nobody doubted them. On train queries that was the best of the
ways that were tried; see docs/engineering/signals-log.md.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
import numpy.typing as npt

from connector.backbone.reader import Reader
from connector.cancelling import Cancelled, CancelScope
from connector.errors import BackboneError
from connector.heads.routes import route_scores
from connector.heads.signals import signal_scores
from connector.reranking.second_settings import of_second, second_settings, without_router
from connector.routing.selection import Routes
from connector.sections import Settings

__all__ = ["Cascade", "Pace", "cascaded", "check_absolute"]

logger = logging.getLogger(__name__)
Floats = npt.NDArray[np.float64]
# Of the time that a request has left; the rest is for the answer.
_SHARE = 0.9
# How much the last request counts in what is expected of the next one.
_NEW = 0.3
# What was too slow to be tried is expected to take so much a second later.
_FORGOTTEN = 0.9


def cascaded(first: Floats, places: Sequence[int], second: Floats) -> Floats:
    """Head scores after the second LLM: float64 [documents].

    Args:
        first: float64 [documents]: log-odds by the first LLM.
        places: of the documents that the second one has read, too; at least one.
        second: float64 [places]: log-odds by it.
    """
    both = (first[list(places)] + second) / 2
    scores = first + math.fsum(both - first[list(places)]) / len(places)
    scores[list(places)] = both
    return scores


@dataclass
class Pace:
    """How fast an LLM was of late, while others wait for it too. Thread-safe.

    Attributes:
        token_ms: milliseconds for a token of a new document; None: not known yet.
        passage_ms: for a passage that the query is read behind.
    """

    token_ms: float | None = None
    passage_ms: float | None = None
    _since: float = field(default_factory=lambda: time.monotonic(), repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def expected_ms(self, tokens: int, passages: int) -> float | None:
        """What so many new tokens and so many passages will take; None: that is not known yet."""
        with self._lock:
            if self.passage_ms is None or tokens and self.token_ms is None:
                return None
            return tokens * (self.token_ms or 0.0) + passages * self.passage_ms

    def learn(self, tokens: int, encode_ms: float, passages: int, read_ms: float) -> None:
        """What a request took."""
        with self._lock:
            self._since = time.monotonic()
            if tokens:
                self.token_ms = _moved(self.token_ms, encode_ms / tokens)
            if passages:
                self.passage_ms = _moved(self.passage_ms, read_ms / passages)

    def late(self, tokens: int, passages: int, taken_ms: float) -> None:
        """So much was not done in so many milliseconds: it is no faster than that, however many find it out."""
        with self._lock:
            self._since = time.monotonic()
            known = tokens * (self.token_ms or 0.0) + passages * (self.passage_ms or 0.0)
            if not known:
                self.token_ms = taken_ms / tokens if tokens else self.token_ms
                self.passage_ms = (0.0 if tokens else taken_ms / passages) if passages else self.passage_ms
            elif known < taken_ms:
                slower = taken_ms / known
                self.token_ms = None if self.token_ms is None else self.token_ms * slower
                self.passage_ms = None if self.passage_ms is None else self.passage_ms * slower

    def forget(self) -> None:
        """It was too slow to be tried: by and by that is forgotten, or it would never be tried again."""
        with self._lock:
            now = time.monotonic()
            kept = _FORGOTTEN ** (now - self._since)
            self._since = now
            self.token_ms = None if self.token_ms is None else self.token_ms * kept
            self.passage_ms = None if self.passage_ms is None else self.passage_ms * kept


def _moved(before: float | None, now: float) -> float:
    return now if before is None else before + _NEW * (now - before)


class Cascade:
    """The second LLM. Thread-safe.

    Args:
        reader: the LLM.
        routes: its router's.
        name: of the model.
        hits: how many of the first LLM's best hits it reads, at most.
        budget_ms: milliseconds that it may take for a request; it reads as many hits as fit. None: no bound but the
            request's deadline.

    Raises:
        BackboneError: its scores are no log-odds.
    """

    def __init__(self, reader: Reader, routes: Routes, name: str, hits: int, budget_ms: float | None = None) -> None:
        check_absolute(routes, name, "cascade")
        self.reader, self.routes, self.name, self.hits = reader, routes, name, hits
        self.pace = Pace()
        self._failed = False
        self._budget = math.inf if budget_ms is None else budget_ms / 1000

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        progress: Callable[[str, float | None], None] | None = None,
        *,
        reader: Reader | None = None,
    ) -> Cascade | None:
        """The second LLM of the settings; None: they name none.

        Args:
            settings: see ``load_settings``.
            progress: called with what is being fetched and how much of it is here (0 to 1).
            reader: the second LLM, where it is loaded already; None: it is loaded.

        Raises:
            SettingsError, BackboneError: see ``second_settings``, ``open_reader`` and ``Routes.from_settings``.
        """
        from connector.routing.opening import open_reader

        own = second_settings(settings)
        if own is None:
            return None
        told = settings.cascade
        try:
            reader = open_reader(own, progress) if reader is None else reader
            return cls(reader, Routes.from_settings(own, reader), own.backbone.model, told.hits, told.budget_ms)
        except BackboneError as error:
            raise BackboneError(of_second(str(error), own.backbone.model)) from None

    def scores(
        self,
        query: str,
        texts: Sequence[str],
        scope: CancelScope,
        *,
        instruction: str = "",
        most_tokens: int | None = None,
    ) -> Floats:
        """Log-odds of the first documents, as many as there is time for: float64 [read]; none where there is none.

        Args:
            query: the query.
            texts: of the first LLM's hits, best first; each has text.
            scope: the request's.
            instruction, most_tokens: see ``Reader.read``.

        Raises:
            Cancelled: nobody waits for the answer any more.
        """
        if not scope.share:
            return np.zeros(0)
        started = time.monotonic()
        left = min(self._budget, scope.remaining() * _SHARE * scope.share)
        tokens = passages = 0
        try:
            texts = texts[: self.hits]
            if left < math.inf:
                missing = self.reader.missing(texts, self.routes.pool(), most_tokens)
                texts = texts[: self._fitting(missing, left * 1000)]
                tokens, passages = (sum(one[at] for one in missing[: len(texts)]) for at in (0, 1))
            if not texts:
                self.pace.forget()
                return np.zeros(0)
            with scope.until(started + left) as own:
                return self._read(query, texts, own, instruction, most_tokens)
        except Cancelled:
            if scope.reason == "cancelled":
                raise
            # What was encoded is kept: the next request finds it.
            self.pace.late(tokens, passages, (time.monotonic() - started) * 1000)
        except Exception as error:
            # Whatever happens to the second LLM: the first one's order is there.
            told = logger.exception if not self._failed else logger.error
            self._failed = True
            told("%s failed; the first LLM's order goes back: %s: %s", self.name, type(error).__name__, error)
        return np.zeros(0)

    def _fitting(self, missing: Sequence[tuple[int, int]], milliseconds: float) -> int:
        """For how many of the first texts there is time; one, where nobody knows how long it takes."""
        expected = 0.0
        for at, (tokens, passages) in enumerate(missing):
            more = self.pace.expected_ms(tokens, passages)
            if more is None:
                return at + 1
            expected += more
            if expected > milliseconds:
                return at
        return len(missing)

    def _read(
        self, query: str, texts: Sequence[str], scope: CancelScope, instruction: str, most_tokens: int | None
    ) -> Floats:
        route = self.routes.route(query)
        reading = self.reader.read(
            query,
            texts,
            route.needs,
            pool=self.routes.pool(),
            scope=scope,
            instruction=instruction,
            most_tokens=most_tokens,
        )
        scores, _ = route_scores(route, signal_scores(route.signals, reading), reading.documents)
        if not np.isfinite(scores).all():
            raise BackboneError("a head score of the second LLM is not finite; check the weights and the dtype")
        took, passages = reading.timings_ms, len(reading.lengths)
        # Where the readings' cache knew all, nothing was read.
        if "read" in took:
            tokens = round(float(reading.lengths.sum()) * reading.encoded / passages)
            self.pace.learn(tokens, took.get("encode", 0.0), passages, took["read"])
        return scores


def check_absolute(routes: Routes, model: str, section: str) -> None:
    """Two LLMs can share scores that mean the same for every query.

    Args:
        routes: of one of them.
        model: its name.
        section: of the settings, that names it.

    Raises:
        BackboneError: the scores are no log-odds of relevance.
    """
    if routes.bundle is None or routes.bundle.static_route().absolute is None:
        raise BackboneError(without_router(model, section))
