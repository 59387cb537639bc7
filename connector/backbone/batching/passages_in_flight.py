"""Passages on their way into the document cache: each is encoded once, for all requests that want it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from connector.backbone.batching.work_queue import Work
from connector.backbone.caching.document_cache import DocumentCache
from connector.backbone.prompt.tail import TokenIds
from connector.backbone.runtime import EncodedDocument, Needs
from connector.cancelling import CancelScope

__all__ = ["EncodeWork", "PassageInFlight", "PassagesInFlight"]

# Tokens of a request that are encoded in one go; then the others have their turn. An ordinary window, of 100 passages
# of 180 tokens, is one: sharing the time among equals would answer all of them as late as the last.
_PART_TOKENS = 20_480


@dataclass(slots=True, eq=False)
class PassageInFlight:
    """One that is to be encoded, or is being encoded.

    Attributes:
        key: the cache's.
        ids: its tokens.
        wanted_by: works of living requests, in the order in which they came; none once it has a state.
        taken: a batch is to encode it.
        state: what came of it.
    """

    key: bytes
    ids: TokenIds
    wanted_by: list[EncodeWork] = field(default_factory=list)
    taken: bool = False
    state: EncodedDocument | None = None

    @property
    def waits(self) -> bool:
        """No batch has taken it."""
        return self.state is None and not self.taken


class PassagesInFlight:
    """What requests miss, by key. It belongs to a ``WorkQueue``, whose lock is held in every call.

    Args:
        cache: where states go.
    """

    def __init__(self, cache: DocumentCache) -> None:
        self._cache = cache
        self._by_key: dict[bytes, PassageInFlight] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def want(self, key: bytes, ids: Callable[[], TokenIds], work: EncodeWork) -> PassageInFlight:
        """The passage with this key, for one more work."""
        passage = self._by_key.get(key)
        if passage is None:
            # Since the work's look into the cache, another may have finished it.
            known = self._cache.peek(key)
            if known is not None:
                return PassageInFlight(key, np.zeros(0, dtype=np.int32), state=known)
            passage = self._by_key[key] = PassageInFlight(key, ids())
        passage.wanted_by.append(work)
        return passage

    def finish(self, passage: PassageInFlight, state: EncodedDocument) -> None:
        """Give a passage's state to all who want it; the first of them counts it as encoded, the others as cached."""
        passage.state = state
        del self._by_key[passage.key]
        # A passage that held works, which hold it, would keep its state until Python looks for cycles.
        works, passage.wanted_by = passage.wanted_by, []
        for at, work in enumerate(works):
            work.encoded += at == 0
            work.left -= 1
            if work.done:
                work.woken.set()

    def give_back(self, passage: PassageInFlight) -> None:
        """The batch that took it is over."""
        passage.taken = False
        self._drop_if_unwanted(passage)

    def leave(self, passage: PassageInFlight, work: EncodeWork) -> None:
        """One work less wants it. What a batch has taken may still be wanted by who comes."""
        passage.wanted_by.remove(work)
        self._drop_if_unwanted(passage)

    def _drop_if_unwanted(self, passage: PassageInFlight) -> None:
        if passage.waits and not passage.wanted_by:
            del self._by_key[passage.key]


class EncodeWork(Work):
    """The passages that one request misses.

    Args:
        scope: the request's.
        in_flight: of all requests.
        keys: the cache's keys, each once.
        ids_of: token ids of the passage at a place; asked for those only that nobody else is encoding.
        pool: what they are encoded for.

    Attributes:
        passages: one a key.
        left: how many of them have no state yet.
        encoded: how many were encoded for this work.
        taken: what the running batch has taken.
    """

    def __init__(
        self,
        scope: CancelScope,
        in_flight: PassagesInFlight,
        keys: Sequence[bytes],
        ids_of: Callable[[int], TokenIds],
        pool: Needs,
    ) -> None:
        super().__init__(scope)
        self._in_flight, self._keys, self._ids_of = in_flight, keys, ids_of
        self.pool = pool
        self.passages: list[PassageInFlight] = []
        self.taken: list[PassageInFlight] = []
        self.left = len(keys)
        self.encoded = 0

    @property
    def done(self) -> bool:
        """See ``Work``."""
        return self.left == 0 or self.error is not None

    @property
    def ready(self) -> bool:
        """See ``Work``."""
        return any(passage.waits for passage in self.passages)

    @property
    def tokens(self) -> int:
        """See ``Work``."""
        return sum(len(passage.ids) for passage in self.passages if passage.waits)

    def joins(self, first: Work) -> bool:
        """See ``Work``: passages for the same pool."""
        return isinstance(first, EncodeWork) and first.pool == self.pool

    def enter(self) -> None:
        """See ``Work``."""
        for at, key in enumerate(self._keys):
            passage = self._in_flight.want(key, lambda at=at: self._ids_of(at), self)  # type: ignore[misc]
            self.passages.append(passage)
            self.left -= passage.state is not None

    def begin(self) -> int:
        """See ``Work``."""
        tokens = 0
        for passage in self.passages:
            if passage.waits:
                if tokens and tokens + len(passage.ids) > _PART_TOKENS:
                    break
                tokens += len(passage.ids)
                passage.taken = True
                self.taken.append(passage)
        return tokens

    def end(self) -> bool:
        """See ``Work``."""
        undone = [passage for passage in self.taken if passage.state is None]
        self.taken = []
        for passage in undone:
            self._in_flight.give_back(passage)
        return not undone and self.ready

    def leave(self) -> None:
        """See ``Work``."""
        for passage in self.passages:
            if passage.state is None:
                self._in_flight.leave(passage, self)
