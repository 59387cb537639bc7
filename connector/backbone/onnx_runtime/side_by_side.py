"""Calls that have a core each, where one call on all cores would leave them waiting for each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["SideBySide"]

T = TypeVar("T")
R = TypeVar("R")


class SideBySide:
    """Makes calls at once, as many as there are cores, whoever asks for them. Thread-safe.

    Args:
        cores: of the process.
    """

    def __init__(self, cores: int) -> None:
        self._pool = ThreadPoolExecutor(cores, thread_name_prefix="rh-onnx") if cores > 1 else None

    def map(self, call: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """Make a call for each item; results come in the order of the items, and what a call raises is raised.

        When the iterator is closed early, calls that have not begun are not made.
        """
        if self._pool is None or len(items) < 2:
            yield from map(call, items)
            return
        made = [self._pool.submit(call, item) for item in items]
        try:
            for one in made:
                yield one.result()
        finally:
            for one in made:
                one.cancel()
