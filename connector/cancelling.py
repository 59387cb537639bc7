"""When work for a request is to stop: its deadline has passed, or nobody waits for its answer any more."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Literal

__all__ = ["CancelScope", "Cancelled"]


class Cancelled(Exception):
    """Work was stopped on purpose.

    Attributes:
        reason: ``deadline``: its time is up; ``cancelled``: nobody waits for it.
    """

    def __init__(self, reason: Literal["deadline", "cancelled"]) -> None:
        super().__init__(reason)
        self.reason: Literal["deadline", "cancelled"] = reason


class CancelScope:
    """How long one request may take, and whether it is still wanted. Thread-safe; it knows nothing of queues.

    Args:
        deadline: in seconds of ``time.monotonic``; infinite: none.

    Attributes:
        share: of the time that is left, how much is for this work: other work of the same request comes after it.
            0: none is for what could also be left out.
        found: gives what has been found so far, which goes back where the deadline passes; None: nothing.
    """

    def __init__(self, deadline: float = math.inf) -> None:
        self.deadline = deadline
        self.share = 1.0
        self.found: Callable[[], object] | None = None
        self._cancelled = False
        self._callbacks: list[Callable[[], None]] = []
        self._lock = Lock()

    @classmethod
    def after(cls, milliseconds: float | None) -> CancelScope:
        """A scope that ends so many milliseconds from now; None: it has no end."""
        return cls(math.inf if milliseconds is None else time.monotonic() + milliseconds / 1000)

    @property
    def reason(self) -> Literal["deadline", "cancelled"] | None:
        """Why work is to stop; None: it is to go on."""
        if self._cancelled:
            return "cancelled"
        return "deadline" if time.monotonic() >= self.deadline else None

    def remaining(self) -> float:
        """Seconds until the deadline, 0 when it has passed; infinite without one."""
        return max(0.0, self.deadline - time.monotonic())

    def check(self) -> None:
        """Go on, or not.

        Raises:
            Cancelled: the deadline has passed, or ``cancel`` was called.
        """
        reason = self.reason
        if reason is not None:
            raise Cancelled(reason)

    def cancel(self) -> None:
        """Nobody waits any more: ``check`` raises from now on, and those who wait in ``waking`` are woken."""
        with self._lock:
            self._cancelled = True
            callbacks = tuple(self._callbacks)
        for callback in callbacks:
            callback()

    @contextmanager
    def until(self, deadline: float) -> Iterator[CancelScope]:
        """A scope that ends with this one, or sooner: at a deadline of its own.

        Args:
            deadline: in seconds of ``time.monotonic``; infinite: none.
        """
        own = CancelScope(min(deadline, self.deadline))
        own.share = self.share
        with self.waking(own.cancel):
            yield own

    @contextmanager
    def waking(self, callback: Callable[[], None]) -> Iterator[None]:
        """Have a function called at ``cancel``, from its thread; at once where that has been called.

        The function must not block for long, and must not call this scope.
        """
        with self._lock:
            self._callbacks.append(callback)
            already = self._cancelled
        if already:
            callback()
        try:
            yield
        finally:
            with self._lock:
                self._callbacks.remove(callback)
