"""Passages that are being encoded now: whoever needs one of them too waits for it instead of encoding it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Event, Lock

from connector.backbone.cache import DocumentCache
from connector.backbone.runtime import EncodedDocument
from connector.backbone.turns import LOOK_SECONDS, Turns

__all__ = ["SharedEncoding"]


@dataclass(slots=True, eq=False)
class _Awaited:
    over: Event = field(default_factory=Event)
    state: EncodedDocument | None = None


class SharedEncoding:
    """The document cache and what is on its way into it. Thread-safe.

    Args:
        cache: encoded passages.
        at_once: requests that encode at the same time; others wait for their turn, as more would hinder each other.
    """

    def __init__(self, cache: DocumentCache, *, at_once: int = 1) -> None:
        self._cache = cache
        self._turns = Turns(at_once)
        self._in_flight: dict[bytes, _Awaited] = {}
        self._lock = Lock()

    def states(
        self,
        keys: Sequence[bytes],
        encode: Callable[[Sequence[int]], Iterator[EncodedDocument]],
        check: Callable[[], None],
    ) -> tuple[list[EncodedDocument], int]:
        """The states of passages: from the cache, from another request that is encoding them, or encoded here.

        A passage that another request gave up, because it failed or its deadline passed, is encoded here. Nobody
        waits before all that is its own to encode is done, so no two requests wait for each other.

        Args:
            keys: the cache's keys, each once.
            encode: encodes the passages at these places, in order.
            check: called after each passage and while waiting; may raise to stop. What is done stays in the cache.

        Returns:
            One state a key, and how many were encoded here.
        """
        found = self._cache.get_many(keys)
        missing = [at for at, state in enumerate(found) if state is None]
        encoded = 0
        while missing:
            own, others = self._claim(keys, missing)
            try:
                # Between the look into the cache and the claim, another request may have finished it.
                for at in own:
                    found[at] = self._cache.peek(keys[at])
                left = [at for at in own if found[at] is None]
                if left:
                    with self._turns.take(check):
                        for at, state in zip(left, encode(left), strict=True):
                            found[at] = state
                            encoded += 1
                            # Kept at once: when the deadline stops this request, the next one goes on from here.
                            self._cache.put(keys[at], state)
                            self._release(keys[at], own[at], state)
                            check()
            finally:
                for at, awaited in own.items():
                    self._release(keys[at], awaited, found[at])
            missing = []
            for at, awaited in others.items():
                while not awaited.over.wait(LOOK_SECONDS):
                    check()
                found[at] = awaited.state
                if awaited.state is None:
                    missing.append(at)
        return [state for state in found if state is not None], encoded

    def _claim(self, keys: Sequence[bytes], places: Sequence[int]) -> tuple[dict[int, _Awaited], dict[int, _Awaited]]:
        """By place: what is to be encoded here, and what another request is encoding."""
        own: dict[int, _Awaited] = {}
        others: dict[int, _Awaited] = {}
        with self._lock:
            for at in places:
                known = self._in_flight.get(keys[at])
                if known is None:
                    own[at] = self._in_flight[keys[at]] = _Awaited()
                else:
                    others[at] = known
        return own, others

    def _release(self, key: bytes, awaited: _Awaited, state: EncodedDocument | None) -> None:
        """Wake those who wait, with the state or, where there is none, to encode it themselves."""
        if awaited.over.is_set():
            return
        awaited.state = state
        with self._lock:
            del self._in_flight[key]
        awaited.over.set()
