"""Calls that have a core each, where one call on all cores would leave them waiting for each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["SideBySide"]

T = TypeVar("T")
R = TypeVar("R")

# Calls of one map for each core: one at work, one that follows when a shorter one is done before it is its turn.
_AHEAD = 2


class SideBySide:
    """Makes calls at once, as many as there are cores, whoever asks for them. Thread-safe.

    Args:
        cores: of the process.
    """

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._pool = ThreadPoolExecutor(cores, thread_name_prefix="rh-one-core") if cores > 1 else None

    def map(self, call: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """Make a call for each item; results come in the order of the items, and what a call raises is raised.

        Others that ask in between have their turn: of one map no more calls wait than there are cores, unlike those
        of ``Executor.map``, which are all handed over at once. When the iterator is closed early, calls that have not
        begun are not made.
        """
        if self._pool is None or len(items) < 2:
            yield from map(call, items)
            return
        going: deque[Future[R]] = deque()
        try:
            for item in items:
                if len(going) == _AHEAD * self._cores:
                    yield going.popleft().result()
                going.append(self._pool.submit(call, item))
            while going:
                yield going.popleft().result()
        finally:
            for one in going:
                one.cancel()

    def close(self) -> None:
        """Let the threads go, once they are done."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
