"""No longer than so for a whole answer: the clients' own timeouts count anew with each byte that comes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from connector.engines.cluster.connection import ClusterError

__all__ = ["Patience", "parsed"]

T = TypeVar("T")
# What a slow line needs for a large answer, in waits of ``engine.timeout_ms``.
_TIMES = 3


class Patience:
    """Waits for calls, each on a thread of its own. One that is given up ends when its connection does.

    Args:
        url: of the cluster.
        timeout_s: longest silence of an answer; all of it may take three times as long.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url, self._longest = url, _TIMES * timeout_s

    def __call__(self, call: Callable[[], T]) -> T:
        """What the call gives.

        Raises:
            ClusterError: it takes too long.
        """
        results: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(call())
            except BaseException as error:
                errors.append(error)

        # A daemon: the process does not wait for what nobody waits for.
        thread = threading.Thread(target=run, name="cluster request", daemon=True)
        thread.start()
        thread.join(self._longest)
        if errors:
            raise errors[0]
        if not results:
            within = f"did not end its answer within {self._longest:g} s"
            raise ClusterError(f"{self._url} {within}; raise engine.timeout_ms or look at it")
        return results[0]


def parsed(answer: Any, url: str, path: str) -> Any:
    """The answer, where it is JSON: both clients hand a page of HTML on as its text.

    Raises:
        ClusterError: it is a text.
    """
    if isinstance(answer, str | bytes):
        raise ClusterError(
            f"{url}{path} did not answer with JSON; check engine.url, and what stands before the cluster"
        )
    return answer
