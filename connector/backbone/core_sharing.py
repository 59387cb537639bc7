"""The CPU's cores, divided among the calls that run at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import torch

__all__ = ["CoreSharing"]


class CoreSharing:
    """Gives a call that is alone all cores, and each of several its part. Thread-safe.

    One call on two cores is not twice as fast as on one: short products, copies and Python keep to one core. Two
    calls, each on a core of its own, waste nothing. torch's thread count belongs to the calling thread, and what is
    computed does not depend on it.

    Args:
        cores: to be divided; None: as many as torch would use.
    """

    def __init__(self, cores: int | None = None) -> None:
        self.cores = cores or torch.get_num_threads()
        self._running = 0
        self._lock = Lock()

    @contextmanager
    def share(self) -> Iterator[int]:
        """Run a part of a call on its share of the cores; gives their number."""
        with self._lock:
            self._running += 1
            share = max(1, self.cores // self._running)
        before = torch.get_num_threads()
        try:
            if before != share:
                torch.set_num_threads(share)
            yield share
        finally:
            if before != share:
                torch.set_num_threads(before)
            with self._lock:
                self._running -= 1
