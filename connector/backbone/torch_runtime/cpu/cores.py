"""The CPU's cores, divided among the calls that run at the same time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import cache
from threading import Lock
from typing import TypeVar

import torch

from connector.backbone.side_by_side import SideBySide

__all__ = ["CoreSharing", "on_cores"]

T = TypeVar("T")
R = TypeVar("R")


class CoreSharing:
    """Gives a call that is alone all cores, and each of several one core. Thread-safe.

    A call that is alone for a moment only, between those of busy clients, gets one core too: once another comes
    beside it, its threads would wait for each other, several times as long as it saved.

    One call on two cores is not twice as fast as on one: short products, copies and Python keep to one core. Two
    calls, each on a core of its own, waste nothing. What is computed does not depend on it.

    Calls on all cores run in one thread that is kept for them. OpenMP (libgomp) keeps a team of threads for every
    thread that ever computed on several cores, and once these are more than there are cores, they sleep whenever they
    wait for each other: everything then takes up to twice as long, in all threads, for good. What computes in torch
    beside should therefore be called here too.

    Args:
        cores: to be divided; None: as many as torch would use.
        crowded: seconds for which calls keep to one core after several have run at the same time.
    """

    def __init__(self, cores: int | None = None, *, crowded: float = 0.1) -> None:
        self.cores = cores or torch.get_num_threads()
        self._all = ThreadPoolExecutor(1, thread_name_prefix="rh-all-cores")
        self._running = 0
        self._crowded, self._crowded_until = crowded, -math.inf
        self._lock = Lock()

    @staticmethod
    @cache
    def of_process() -> CoreSharing:
        """The one that all of this process's calls on the CPU go through."""
        return CoreSharing()

    def width(self) -> int:
        """Cores of a call that would begin now."""
        with self._lock:
            return self.cores // (self._others(time.monotonic()) + 1) or 1

    def run(self, call: Callable[[], R]) -> R:
        """Make one call, on all cores if no other runs, else on one; what it raises is raised."""
        with self._entered() as others:
            if others or self.cores == 1:
                return _on(1, call)
            return self._all.submit(_on, self.cores, call).result()

    def map(self, call: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """Make a call for each item, several at once on a core each; results come in the order of the items.

        When the iterator is closed early, calls that have not begun are not made.
        """
        with self._entered() as others:
            width = min(self.cores // (others + 1), len(items))
            if width > 1:
                with closing(SideBySide(width)) as cores:
                    yield from cores.map(lambda item: _on(1, lambda: call(item)), items)
                return
        for item in items:
            yield self.run(lambda item=item: call(item))  # type: ignore[misc]

    @contextmanager
    def _entered(self) -> Iterator[int]:
        """Counts a call as running; gives the number of others, which are taken to be there a moment longer."""
        with self._lock:
            now = time.monotonic()
            others = self._others(now)
            if self._running:
                self._crowded_until = now + self._crowded
            self._running += 1
        try:
            yield others
        finally:
            with self._lock:
                self._running -= 1
                if self._running:
                    self._crowded_until = time.monotonic() + self._crowded

    def _others(self, now: float) -> int:
        return self._running or int(now < self._crowded_until)


@contextmanager
def on_cores(cores: int) -> Iterator[None]:
    """Let torch compute on so many cores in this thread."""
    # Asking first makes torch set up a new thread, which would otherwise happen later and undo what is set here.
    before = torch.get_num_threads()
    if before == cores:
        yield
        return
    torch.set_num_threads(cores)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _on(cores: int, call: Callable[[], R]) -> R:
    with on_cores(cores):
        return call()
