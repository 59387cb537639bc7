"""Whose turn it is, where only some may go on at the same time, and who goes along with whom."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from threading import Condition
from typing import Generic, TypeVar

__all__ = ["LOOK_SECONDS", "Turns"]

LOOK_SECONDS = 0.01
"""Who waits looks at its own deadline this often."""

W = TypeVar("W")


class _Place(Generic[W]):
    """One that waits, or whose work is being done."""

    __slots__ = ("done", "work")

    def __init__(self, work: W) -> None:
        self.work = work
        self.done = False


class Turns(Generic[W]):
    """So many at a time, first come, first served; a turn does the work of those behind it too. Thread-safe.

    Nobody waits for others to come. Of what waits, a turn takes no more than leaves as much for each other turn.

    Args:
        at_once: how many turns at a time.
        together: most works of a turn.
        joins: whether the last may be done together with the ones before it.
    """

    def __init__(
        self, at_once: int, together: int = 1, joins: Callable[[Sequence[W]], bool] = lambda works: True
    ) -> None:
        self._at_once = self._free = at_once
        self._together, self._joins = together, joins
        self._waiting: deque[_Place[W]] = deque()
        self._changed = Condition()

    def __len__(self) -> int:
        """How many wait."""
        with self._changed:
            return len(self._waiting)

    @contextmanager
    def take(self, work: W, check: Callable[[], None]) -> Iterator[list[W]]:
        """Wait for a turn, and have it as long as the context lasts.

        Args:
            work: what is to be done.
            check: called while waiting; may raise to give up. Work that another turn has begun goes on.

        Yields:
            The works of this turn, ``work`` first. Empty: another turn has done it.
        """
        own = _Place(work)
        turn: list[_Place[W]] = []
        with self._changed:
            self._waiting.append(own)
            try:
                while not own.done and not (self._free and self._waiting and self._waiting[0] is own):
                    self._changed.wait(LOOK_SECONDS)
                    check()
                if not own.done:
                    turn = self._next()
            finally:
                if own in self._waiting:
                    self._waiting.remove(own)
                self._changed.notify_all()
        try:
            yield [place.work for place in turn]
        finally:
            if turn:
                with self._changed:
                    self._free += 1
                    for place in turn:
                        place.done = True
                    self._changed.notify_all()

    def _next(self) -> list[_Place[W]]:
        self._free -= 1
        most = min(self._together, ceil(len(self._waiting) / self._at_once))
        turn = [self._waiting.popleft()]
        while self._waiting and len(turn) < most:
            if not self._joins([place.work for place in (*turn, self._waiting[0])]):
                break
            turn.append(self._waiting.popleft())
        return turn
