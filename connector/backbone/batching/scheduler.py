"""All that requests want of the LLM goes through here: passages to be encoded, windows to be read."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Generator, Iterator, Sequence

from connector.backbone.batching.passages_in_flight import EncodeWork, PassagesInFlight
from connector.backbone.batching.work_queue import Limits, SchedulerStatistics, Work, WorkQueue
from connector.backbone.caching.document_cache import DocumentCache
from connector.backbone.prompt.tail import TokenIds
from connector.backbone.runtime import EncodedDocument, Needs, Observations, ReadRequest
from connector.cancelling import CancelScope
from connector.errors import BackboneError

__all__ = ["Scheduler"]

logger = logging.getLogger(__name__)
Encode = Callable[[Sequence[TokenIds], Needs], Iterator[EncodedDocument]]
Read = Callable[[Sequence[ReadRequest]], Sequence[Observations]]
# Tokens of what is encoded together for several requests: about a second on two cores. More would have no faster
# products, and requests would wait longer for each other.
_ENCODED_TOGETHER = 4096
# Document tokens of the windows of one pass: nine of 20 passages of 180 tokens. A window of a thousand is read alone,
# so that small ones do not wait for it twice.
_READ_TOGETHER = 32_768


class _ReadWork(Work):
    """A window that is to be read."""

    def __init__(self, scope: CancelScope, request: ReadRequest) -> None:
        super().__init__(scope)
        self.request = request
        self.found: Observations | None = None

    @property
    def done(self) -> bool:
        return self.found is not None or self.error is not None

    @property
    def ready(self) -> bool:
        return not self.done and not self.running

    @property
    def tokens(self) -> int:
        return self.request.tokens

    def joins(self, first: Work) -> bool:
        return True

    def begin(self) -> int:
        return self.tokens


class Scheduler:
    """One queue before the LLM, and the document cache behind it. Thread-safe.

    What waits at the same time is done together, up to a budget of tokens; nobody waits for others to come, and what
    comes out does not depend on it. Passages of several requests are encoded in one call, whose products are faster
    over many short ones than over one (``bench --growth``, rows ``cold_solo_by_clients``). Windows are read in one
    call where the runtime can; a single thread makes it then, and the runtime divides the cores.

    Args:
        cache: encoded passages.
        encode: the states of passages, given as token ids, in order, for what may be wanted of them.
        read: what comes of requests that are read together.
        threads: calls of ``encode`` at the same time, and of ``read`` where it takes one request; more would hinder
            each other.
        requests_together: most requests of a call of ``read``.
    """

    def __init__(
        self, cache: DocumentCache, encode: Encode, read: Read, *, threads: int = 1, requests_together: int = 1
    ) -> None:
        self._cache, self._encode, self._read = cache, encode, read
        self._in_flight = PassagesInFlight(cache)
        self._queue = WorkQueue(
            {
                EncodeWork: Limits(threads, _ENCODED_TOGETHER, sys.maxsize),
                _ReadWork: Limits(1 if requests_together > 1 else threads, _READ_TOGETHER, requests_together),
            }
        )

    def encode(
        self, keys: Sequence[bytes], ids_of: Callable[[int], TokenIds], pool: Needs, scope: CancelScope
    ) -> tuple[list[EncodedDocument], int]:
        """The states of passages: from the cache, or encoded now, together with those of others.

        A passage that several want is encoded once; when the one that is encoding it gives up, the next does. What is
        done is in the cache at once, and stays there when this request ends early.

        Args:
            keys: the cache's keys, each once.
            ids_of: token ids of the passage at a place; asked for those only that have to be encoded.
            pool: what they are encoded for.
            scope: looked at after each passage; wakes who waits.

        Returns:
            One state a key, and how many were encoded for this request.

        Raises:
            Cancelled: the scope ended.
            Exception: what the LLM raised for these passages.
        """
        found = self._cache.get_many(keys)
        missing = [at for at, state in enumerate(found) if state is None]
        if not missing:
            return [state for state in found if state is not None], 0
        scope.check()
        work = EncodeWork(scope, self._in_flight, [keys[at] for at in missing], lambda at: ids_of(missing[at]), pool)
        self._queue.serve(work, self._encode_batch)
        if work.error is not None:
            raise work.error
        for at, passage in zip(missing, work.passages, strict=True):
            found[at] = passage.state
        return [state for state in found if state is not None], work.encoded

    def read(self, request: ReadRequest, scope: CancelScope) -> Observations:
        """What comes of a request: see ``Runtime.read``.

        Args:
            request: the tail, its documents and what is wanted.
            scope: looked at before, and while others are read.

        Raises:
            Cancelled: the scope ended.
            Exception: what the LLM raised for this request.
        """
        scope.check()
        work = _ReadWork(scope, request)
        self._queue.serve(work, self._read_batch)
        if work.error is not None:
            raise work.error
        assert work.found is not None
        return work.found

    def statistics(self) -> SchedulerStatistics:
        """What waits, and how much of it was done together."""
        return self._queue.statistics()

    def _encode_batch(self, works: Sequence[EncodeWork]) -> None:
        """Ends early when the scope of the first ends, whose thread this is, or nobody wants some of the rest."""
        passages = [passage for work in works for passage in work.taken]
        states: Iterator[EncodedDocument] = iter(())
        try:
            states = self._encode([passage.ids for passage in passages], works[0].pool)
            for at, passage in enumerate(passages):
                state = next(states, None)
                if state is None:
                    raise BackboneError("the backbone gave fewer documents than it was asked for; ask again")
                # Kept at once: when this ends early, the next one goes on from here.
                self._cache.put(passage.key, state)
                with self._queue.lock:
                    self._in_flight.finish(passage, state)
                    unwanted = any(not later.wanted_by for later in passages[at + 1 :])
                if unwanted or works[0].scope.reason:
                    return
        except Exception as error:
            self._failed(works, error)
        finally:
            # Or what is left would be encoded as long as an error's traceback holds it.
            if isinstance(states, Generator):
                states.close()

    def _read_batch(self, works: Sequence[_ReadWork]) -> None:
        try:
            found = self._read([work.request for work in works])
            with self._queue.lock:
                for work, observations in zip(works, found, strict=True):
                    work.found = observations
        except Exception as error:
            self._failed(works, error)

    def _failed(self, works: Sequence[Work], error: Exception) -> None:
        """What failed alone has failed; what failed together is done again, each alone."""
        with self._queue.lock:
            if len(works) == 1:
                works[0].error = error
                return
            for work in works:
                work.alone = True
        logger.warning(
            "what %d requests want could not be done together; each is done alone", len(works), exc_info=error
        )
