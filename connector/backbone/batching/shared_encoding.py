"""Passages on their way into the document cache: encoded once, and those of several requests together."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Event, Lock

from connector.backbone.batching.turns import LOOK_SECONDS, Turns
from connector.backbone.caching.document_cache import DocumentCache
from connector.backbone.prompt.tail import TokenIds
from connector.backbone.runtime import EncodedDocument, Head
from connector.errors import BackboneError

__all__ = ["SharedEncoding"]

logger = logging.getLogger(__name__)
Pool = tuple[Head, ...]
Encode = Callable[[Sequence[TokenIds], Pool], Iterator[EncodedDocument]]
# Tokens of what is encoded together for several requests: about a second on two cores. More would have no faster
# products, and requests would wait longer for each other.
_TOGETHER_TOKENS = 4096


@dataclass(slots=True, eq=False)
class _Passage:
    """One that is being encoded, or is to be."""

    key: bytes
    ids: TokenIds
    over: Event = field(default_factory=Event)
    state: EncodedDocument | None = None


@dataclass(slots=True, eq=False)
class _Missing:
    """What one request has to encode.

    Attributes:
        alone: not together with those of others, since that failed.
        begun: by this request or another; whoever began lets go of the passages.
    """

    passages: Sequence[_Passage]
    pool: Pool
    alone: bool
    begun: bool = False

    @property
    def tokens(self) -> int:
        return sum(len(passage.ids) for passage in self.passages)


def _joins(works: Sequence[_Missing]) -> bool:
    return (
        not any(work.alone for work in works)
        and len({work.pool for work in works}) == 1
        and sum(work.tokens for work in works) <= _TOGETHER_TOKENS
    )


class SharedEncoding:
    """The document cache and what is on its way into it. Thread-safe.

    What several requests miss while others encode is encoded in one call of the LLM, whose products are faster over
    many short passages than over one (``bench --growth``, rows ``cold_block_by_clients``).

    Args:
        cache: encoded passages.
        encode: the states of passages, given as token ids, in order, for a pool of heads.
        at_once: calls of ``encode`` at the same time; more would hinder each other.
    """

    def __init__(self, cache: DocumentCache, encode: Encode, *, at_once: int = 1) -> None:
        self._cache, self._encode = cache, encode
        self._turns: Turns[_Missing] = Turns(at_once, sys.maxsize, _joins)
        self._in_flight: dict[bytes, _Passage] = {}
        self._lock = Lock()

    def states(
        self, keys: Sequence[bytes], ids_of: Callable[[int], TokenIds], pool: Pool, check: Callable[[], None]
    ) -> tuple[list[EncodedDocument], int]:
        """The states of passages: from the cache, from another request that is encoding them, or encoded here.

        A passage that another request gave up, because it failed or its deadline passed, is encoded here. Nobody
        waits before all that is its own to encode is done, so no two requests wait for each other.

        Args:
            keys: the cache's keys, each once.
            ids_of: token ids of the passage at a place; asked for those only that have to be encoded.
            pool: the heads that they are encoded for.
            check: called after each passage and while waiting; may raise to stop. What is done stays in the cache.

        Returns:
            One state a key, and how many were encoded for this request.
        """
        found = self._cache.get_many(keys)
        missing = [at for at, state in enumerate(found) if state is None]
        encoded, alone = 0, False
        while missing:
            own, others = self._claim(keys, ids_of, missing)
            work: _Missing | None = None
            try:
                # Between the look into the cache and the claim, another request may have finished it.
                for at in own:
                    found[at] = self._cache.peek(keys[at])
                left = [at for at in own if found[at] is None]
                if left:
                    work = _Missing([own[at] for at in left], pool, alone)
                    with self._turns.take(work, check) as turn:
                        if turn:
                            self._encode_all(turn, check)
                    for at in left:
                        found[at] = own[at].state
                        encoded += found[at] is not None
            finally:
                for at, passage in own.items():
                    if found[at] is not None or work is None or not work.begun:
                        self._release(passage, found[at])
            for at, passage in others.items():
                while not passage.over.wait(LOOK_SECONDS):
                    check()
                found[at] = passage.state
            missing = [at for at in missing if found[at] is None]
            alone = True
        return [state for state in found if state is not None], encoded

    def _claim(
        self, keys: Sequence[bytes], ids_of: Callable[[int], TokenIds], places: Sequence[int]
    ) -> tuple[dict[int, _Passage], dict[int, _Passage]]:
        """By place: what is to be encoded here, and what another request is encoding."""
        own: dict[int, _Passage] = {}
        others: dict[int, _Passage] = {}
        with self._lock:
            for at in places:
                known = self._in_flight.get(keys[at])
                if known is None:
                    own[at] = self._in_flight[keys[at]] = _Passage(keys[at], ids_of(at))
                else:
                    others[at] = known
        return own, others

    def _encode_all(self, turn: Sequence[_Missing], check: Callable[[], None]) -> None:
        """Encode for the first, whose errors are raised, and for those who go along; they encode what is left."""
        for work in turn:
            work.begun = True
        try:
            if not self._encoded(turn, check):
                for work in turn[1:]:
                    self._give_up(work)
                self._encoded(turn[:1], check)
        finally:
            for work in turn:
                self._give_up(work)

    def _encoded(self, works: Sequence[_Missing], check: Callable[[], None]) -> bool:
        """False: it failed for several together."""
        passages = [passage for work in works for passage in work.passages if not passage.over.is_set()]
        states = self._encode([passage.ids for passage in passages], works[0].pool)
        try:
            for passage in passages:
                try:
                    state = next(states, None)
                    if state is None:
                        raise BackboneError("the backbone gave fewer documents than it was asked for; ask again")
                except Exception:
                    if len(works) == 1:
                        raise
                    logger.warning("%d requests' documents could not be encoded together", len(works), exc_info=True)
                    return False
                # Kept at once: when the deadline stops this request, the next one goes on from here.
                self._cache.put(passage.key, state)
                self._release(passage, state)
                check()
        finally:
            # Or what is left would be encoded as long as an error's traceback holds it.
            if isinstance(states, Generator):
                states.close()
        return True

    def _give_up(self, work: _Missing) -> None:
        for passage in work.passages:
            self._release(passage, None)

    def _release(self, passage: _Passage, state: EncodedDocument | None) -> None:
        """Wake those who wait, with the state or, where there is none, to encode it themselves."""
        with self._lock:
            if passage.over.is_set():
                return
            passage.state = state
            del self._in_flight[passage.key]
            passage.over.set()
