"""Whose turn it is, where only some may go on at the same time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition

__all__ = ["LOOK_SECONDS", "Turns"]

LOOK_SECONDS = 0.01
"""Who waits looks at its own deadline this often."""


class Turns:
    """So many at a time, first come, first served. Thread-safe.

    Args:
        at_once: how many.
    """

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._waiting: deque[object] = deque()
        self._changed = Condition()

    @contextmanager
    def take(self, check: Callable[[], None]) -> Iterator[None]:
        """Wait for a turn, and have it as long as the context lasts.

        Args:
            check: called while waiting; may raise to give up.
        """
        own = object()
        with self._changed:
            self._waiting.append(own)
            try:
                while not self._free or self._waiting[0] is not own:
                    self._changed.wait(LOOK_SECONDS)
                    check()
                self._free -= 1
            finally:
                self._waiting.remove(own)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()
