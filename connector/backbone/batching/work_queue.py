"""What waits for the LLM: first come, first served; what fits together is done together."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from threading import Event, Lock
from typing import TypeVar

from connector.cancelling import CancelScope

__all__ = ["Limits", "SchedulerStatistics", "Work", "WorkQueue"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of one kind of work is done at the same time.

    Attributes:
        at_once: batches that run at the same time.
        tokens: most tokens of a batch of several works; what has more is done alone.
        works: most works of a batch.
    """

    at_once: int
    tokens: int
    works: int


@dataclass(frozen=True, slots=True)
class SchedulerStatistics:
    """The queue now, and counts since the start.

    Attributes:
        waiting: works that wait now: for a batch to take them, or for what another batch is doing.
        waiting_tokens: tokens of these that no batch has taken yet.
        batches: batches that were begun.
        works: works in these batches; one that is done in parts counts in each.
        abandoned: works that left before they were done: their request was cancelled, or late.
    """

    waiting: int
    waiting_tokens: int
    batches: int
    works: int
    abandoned: int

    @property
    def works_per_batch(self) -> float:
        """The mean; 0 before the first batch."""
        return self.works / self.batches if self.batches else 0.0


class Work(ABC):
    """What one request wants of the LLM. Its class is its kind; the queue's lock is held in every call.

    Args:
        scope: the request's.

    Attributes:
        woken: set when its thread is to look again.
        running: a batch is doing it, or part of it.
        alone: not together with others, since that failed.
        error: why it cannot be done.
    """

    def __init__(self, scope: CancelScope) -> None:
        self.scope = scope
        self.woken = Event()
        self.running = self.alone = False
        self.error: Exception | None = None

    @property
    @abstractmethod
    def done(self) -> bool:
        """Nothing is left to do, or nothing can be done."""

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Something of it is left that no batch has taken."""

    @property
    @abstractmethod
    def tokens(self) -> int:
        """Tokens that no batch has taken."""

    @abstractmethod
    def joins(self, first: Work) -> bool:
        """Whether it may be done together with another of its kind, if that has not failed before."""

    def enter(self) -> None:  # noqa: B027
        """It is in the queue."""

    @abstractmethod
    def begin(self) -> int:
        """A batch takes it, or the part of it that is done in one go; the tokens that were taken."""

    def end(self) -> bool:
        """The batch is over, whatever came of it. True: its part was done, and the next one is to wait its turn."""
        return False

    def leave(self) -> None:  # noqa: B027
        """It is in the queue no more."""


W = TypeVar("W", bound=Work)


class WorkQueue:
    """One queue for all kinds of work. Thread-safe; it has no thread of its own.

    Whoever waits first does the next batch, in its own thread: its own work, and every later one that may join it.
    Nobody waits for others to come. Each waits on its own event, until its work is done or its scope ends.

    Args:
        limits: of each kind of work.

    Attributes:
        lock: held in every call of a ``Work``.
    """

    def __init__(self, limits: Mapping[type[Work], Limits]) -> None:
        self.lock = Lock()
        self._limits = limits
        # In the order in which they came; a work stays here while it is being done.
        self._works: dict[Work, None] = {}
        self._running: Counter[type[Work]] = Counter()
        self._batches = self._taken = self._abandoned = 0

    def serve(self, work: W, run: Callable[[Sequence[W]], None]) -> None:
        """Returns when the work is done, by this thread or by another.

        Args:
            work: goes to the end of the queue.
            run: does a batch, ``work`` first. It must not raise for what is wrong with a work; it may leave works
                undone, which then wait for the next batch.

        Raises:
            Cancelled: the work's scope ended first. What joined it is done by those who wait for it.
        """
        with work.scope.waking(work.woken.set):
            try:
                with self.lock:
                    self._works[work] = None
                    work.enter()
                while True:
                    # Before the look, so that what happens after it wakes.
                    work.woken.clear()
                    with self.lock:
                        if work.done:
                            return
                        batch = self._next_batch(work)
                    if batch:
                        self._run(batch, run)
                        continue
                    work.scope.check()
                    work.woken.wait(min(work.scope.remaining(), threading.TIMEOUT_MAX))
            finally:
                with self.lock:
                    self._abandoned += not work.done
                    self._works.pop(work, None)
                    work.leave()
                    self._wake()

    def statistics(self) -> SchedulerStatistics:
        """The counts so far."""
        with self.lock:
            waiting = [work for work in self._works if not work.running and not work.done]
            tokens = sum(work.tokens for work in waiting)
            return SchedulerStatistics(len(waiting), tokens, self._batches, self._taken, self._abandoned)

    def _run(self, batch: Sequence[W], run: Callable[[Sequence[W]], None]) -> None:
        try:
            run(batch)
        finally:
            with self.lock:
                self._running[type(batch[0])] -= 1
                for work in batch:
                    work.running = False
                    if work.end() and work in self._works:
                        del self._works[work]
                        self._works[work] = None
                    work.woken.set()
                self._wake()

    def _next_batch(self, first: W) -> list[W]:
        """The batch that begins with this work; empty: it is not its turn."""
        limits, ready = self._limits[type(first)], self._ready(type(first))
        if self._running[type(first)] == limits.at_once or not ready or ready[0] is not first:
            return []
        # As much is left for each other batch that may run.
        most = min(limits.works, ceil(len(ready) / limits.at_once))
        batch, tokens = [first], first.begin()
        for work in ready[1:]:
            if len(batch) == most or first.alone:
                break
            # What the batch has taken already leaves a work that shares it with nothing of its own.
            if work.ready and not work.alone and work.joins(first) and tokens + work.tokens <= limits.tokens:
                tokens += work.begin()
                batch.append(work)
        for work in batch:
            work.running = True
        self._running[type(first)] += 1
        self._batches += 1
        self._taken += len(batch)
        self._wake()
        return batch

    def _ready(self, kind: type[W]) -> list[W]:
        return [
            work
            for work in self._works
            if isinstance(work, kind) and work.ready and not work.running and not work.done and not work.scope.reason
        ]

    def _wake(self) -> None:
        """Have those look whose turn it is."""
        for kind, limits in self._limits.items():
            if self._running[kind] < limits.at_once:
                for work in self._ready(kind)[:1]:
                    work.woken.set()
