"""Who may use the LLM when: some requests at a time, a bounded queue, deadlines that count the waiting."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import anyio
import anyio.to_thread
from starlette.requests import Request

__all__ = ["Admission", "ClientGone", "Deadline", "DeadlinePassed", "QueueFull", "places", "while_connected"]

T = TypeVar("T")


# Their tails are read together; more of them would answer each later without answering more of them.
_AT_LEAST = 8


def places() -> int:
    """How many requests to run together: one a core, at least 8.

    What of them is computed at the same time is up to the reader: see ``WaitingWindows`` and ``SharedEncoding``.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores, _AT_LEAST)


class QueueFull(Exception):
    """As many requests wait as may."""


class DeadlinePassed(Exception):
    """The request's time was over before it was its turn."""


class ClientGone(Exception):
    """The client closed the connection before it was answered."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """The moment (``time.monotonic``) at which an answer is due; None: any time."""

    at: float | None = None

    @classmethod
    def after(cls, milliseconds: float | None, start: float) -> Deadline:
        """So many milliseconds after ``start``."""
        return cls(None if milliseconds is None else start + milliseconds / 1000)

    def remaining_ms(self) -> float | None:
        """Milliseconds left, at least 0; None without a deadline."""
        return None if self.at is None else max(0.0, (self.at - time.monotonic()) * 1000)


class Admission:
    """The places at the LLM. To be made inside the event loop that uses it.

    Args:
        max_queue: how many may wait.
        at_once: how many run together.
    """

    def __init__(self, *, max_queue: int, at_once: int = 1) -> None:
        self._capacity = at_once + max_queue
        self._inside = 0
        self._places = anyio.Semaphore(at_once)
        self._threads = anyio.CapacityLimiter(at_once)

    @property
    def inside(self) -> int:
        """Requests that run or wait now."""
        return self._inside

    async def run(self, call: Callable[[], T], deadline: Deadline) -> T:
        """Wait for a place, then run ``call`` in a thread.

        A cancelled request leaves the queue at once; one that is already running keeps its place until ``call``
        returns, because the LLM is busy that long.

        Raises:
            QueueFull: no place to wait.
            DeadlinePassed: the deadline came while waiting.
        """
        if self._inside >= self._capacity:
            raise QueueFull
        self._inside += 1
        try:
            remaining = deadline.remaining_ms()
            with anyio.move_on_after(None if remaining is None else remaining / 1000) as scope:
                await self._places.acquire()
            if scope.cancelled_caught:
                raise DeadlinePassed
            try:
                if deadline.remaining_ms() == 0:
                    raise DeadlinePassed
                return await anyio.to_thread.run_sync(call, limiter=self._threads)
            finally:
                self._places.release()
        finally:
            self._inside -= 1


async def while_connected(request: Request, work: Callable[[], Awaitable[T]]) -> T:
    """Do the work, but cancel it when the client goes away. The body must have been read.

    Raises:
        ClientGone: it went away.
    """
    results: list[T] = []
    errors: list[Exception] = []

    async def watch(scope: anyio.CancelScope) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(watch, group.cancel_scope)
        try:
            results.append(await work())
        except Exception as error:
            # Raised below: out of the group it would come wrapped in an ExceptionGroup.
            errors.append(error)
        group.cancel_scope.cancel()
    if errors:
        raise errors[0]
    if not results:
        raise ClientGone
    return results[0]
