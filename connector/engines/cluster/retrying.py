"""Repeating what a cluster refuses for now, for a limited time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import tenacity

from connector.engines.cluster.connection import ClusterError

__all__ = ["Retrying"]

T = TypeVar("T")
_LONGEST_PAUSE = 8.0


class Retrying:
    """Calls again, with growing and random pauses, while the error is temporary and the budget lasts.

    Args:
        budget: seconds from the first try; 0: one try.
        pause: seconds of the first pause, at most.
    """

    def __init__(self, budget: float, pause: float = 0.5) -> None:
        self._budget = budget
        self._pause = pause

    def __call__(self, call: Callable[[], T]) -> T:
        """What ``call`` gives.

        Raises:
            ClusterError: the last one, as it came.
        """
        retrying = tenacity.Retrying(
            stop=tenacity.stop_before_delay(self._budget),
            wait=tenacity.wait_random_exponential(multiplier=self._pause, max=_LONGEST_PAUSE),
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, ClusterError) and error.is_temporary),
            reraise=True,
        )
        return retrying(call)
