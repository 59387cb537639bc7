"""Who is let in: so many requests at a time, each for as long as it uses the machine.

Nobody waits here. Who is in waits in the library's scheduler, each request in a thread of its own. An answer does not
wait for that thread beyond its deadline: a batch that is under way cannot be stopped, and may take seconds.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Self, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
from starlette.requests import Request

from connector.cancelling import Cancelled, CancelScope

__all__ = ["Admission", "ClientGone", "QueueFull", "places", "while_connected"]

T = TypeVar("T")


# Their tails are read together; more of them would answer each later without answering more of them.
_AT_LEAST = 8


def places() -> int:
    """How many requests are taken to be worked on together: one a core, at least 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores, _AT_LEAST)


class QueueFull(Exception):
    """As many requests are in as may be."""


class ClientGone(Exception):
    """The client closed the connection before it was answered."""


class Admission:
    """The door: it bounds the requests inside. To be entered, as a context, in the event loop that uses it.

    It is left when all that was let in has ended.

    Args:
        most: how many requests may be inside.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._inside = 0
        # A thread for each: a request that waited for one would not be seen by the scheduler.
        self._threads = anyio.CapacityLimiter(most)
        # Of the application, not of a request: a thread may outlive the answer to its request.
        self._working = anyio.create_task_group()

    async def __aenter__(self) -> Self:
        await self._working.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> bool | None:
        return await self._working.__aexit__(*error)

    @property
    def inside(self) -> int:
        """Requests whose call runs or waits now, whether or not they have been answered."""
        return self._inside

    async def run(self, call: Callable[[], T], scope: CancelScope) -> T:
        """Run ``call`` in a thread, and wait for it until ``scope`` ends.

        A request keeps its place until ``call`` returns, for it uses the machine that long; its answer does not wait
        for that. Whoever cancels the caller has to cancel ``scope`` first, which ends ``call``; a server that stops
        need not.

        Args:
            call: works in ``scope``: it returns soon after that was cancelled. What it returns later is dropped.
            scope: of the request.

        Raises:
            QueueFull: as many are inside as may be.
            Cancelled: the scope ended before ``call`` did.
        """
        if self._inside >= self._most:
            raise QueueFull
        scope.check()
        self._inside += 1
        outcome: list[T] = []
        errors: list[BaseException] = []
        over = anyio.Event()

        async def work() -> None:
            try:
                outcome.append(await anyio.to_thread.run_sync(call, limiter=self._threads))
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:
                # The request's own: it must not end the others of the group.
                errors.append(error)
            finally:
                self._inside -= 1
                over.set()

        self._working.start_soon(work)
        try:
            with _waking(scope, over), anyio.move_on_after(scope.remaining()):
                await over.wait()
        except anyio.get_cancelled_exc_class():
            # The server stops: it ends its tasks, and the thread must not go on without its task.
            scope.cancel()
            raise
        # Of a request whose client has left, what the thread came to is nobody's: nothing is counted of it.
        await anyio.lowlevel.checkpoint_if_cancelled()
        if errors:
            raise errors[0]
        if not outcome:
            raise Cancelled(scope.reason or "deadline")
        return outcome[0]


@contextmanager
def _waking(scope: CancelScope, event: anyio.Event) -> Iterator[None]:
    """Set an event of this loop when the scope is cancelled, from whatever thread."""
    loop = asyncio.get_running_loop()

    def wake() -> None:
        # A loop that is closed has nobody waiting.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(event.set)

    with scope.waking(wake):
        yield


async def while_connected(request: Request, work: Callable[[], Awaitable[T]], scope: CancelScope | None = None) -> T:
    """Do the work, but cancel it, and the scope it is done in, when the client goes away.

    When the server stops, the scope is cancelled too: what is done so far has to do. The request's body must have
    been read.

    Raises:
        ClientGone: it went away.
    """
    results: list[T] = []
    errors: list[Exception] = []
    gone = False

    async def watch(group_scope: anyio.CancelScope) -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        if scope is not None:
            scope.cancel()
        group_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(watch, group.cancel_scope)
        try:
            with request.app.state.stopping.waking(scope.cancel) if scope is not None else nullcontext():
                results.append(await work())
        except Exception as error:
            # Raised below: out of the group it would come wrapped in an ExceptionGroup.
            errors.append(error)
        group.cancel_scope.cancel()
    if gone:
        raise ClientGone
    if errors:
        raise errors[0]
    return results[0]
