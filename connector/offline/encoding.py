"""Documents encoded by workers, and kept in the document cache here."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from connector.backbone.caching.sqlite_store import PassageStore, store_path
from connector.heads.needs import Needs
from connector.offline.workers import LoadedLlm, Workers
from connector.sections import CacheSettings

if TYPE_CHECKING:
    from connector.backbone.reader import Reader

__all__ = ["Kept", "keeping"]


@dataclass(frozen=True, slots=True)
class _Encode:
    """All that is kept of texts: key, number of the LLM's tokens, bytes."""

    pool: Needs

    def __call__(self, llm: LoadedLlm, texts: list[str]) -> list[tuple[bytes, int, bytes]]:
        every = llm.reader.encoded(texts, self.pool)
        return [(key, state.tokens, state.to_bytes()) for key, state in every]


class Kept(NamedTuple):
    """What became of a batch: its texts, of their distinct passages and vectors those that were there and those that
    were made now, and how many others left the disk for them.
    """

    texts: int
    present: int
    encoded: int
    evicted: int


def keeping(
    workers: Workers | None, reader: Reader, cache: CacheSettings, pool: Needs, batches: Iterable[list[str]]
) -> Iterator[Kept]:
    """Encode batches of texts into the document cache on disk.

    Args:
        workers: encode what is missing; None: the reader does.
        reader: the LLM here, and its cache.
        cache: where the disk is, and how much of it may be taken.
        pool: what documents are encoded for.
        batches: texts that become durable together.

    Yields:
        What became of each batch.

    Raises:
        BackboneError: the LLM failed, or the disk takes no more.
    """
    if workers is None:
        for batch in batches:
            before = reader.statistics().disk_evictions
            present, encoded = reader.precompute(batch, pool)
            yield Kept(len(batch), present, encoded, reader.statistics().disk_evictions - before)
        return
    with closing(PassageStore(store_path(cache.path), cache.disk_mb * 1_000_000)) as store:
        # Of each batch that is under way: its texts, its passages, and which texts a worker has.
        asked: deque[tuple[int, set[bytes], list[str]]] = deque()

        def unknown() -> Iterator[list[str]]:
            for batch in batches:
                keys = reader.keys(batch, pool)
                texts = [
                    text for text, own in zip(batch, keys, strict=True) if not all(store.has(key) for key in own)
                ]
                asked.append((len(batch), {key for own in keys for key in own}, texts))
                # What is all there goes to no worker, and keeps its place among the others.
                if texts:
                    yield texts

        made = workers.map(_Encode(pool), unknown(), reader)
        while True:
            rows = None if asked and not asked[0][2] else next(made, None)
            if rows is None and not asked:
                return
            if rows is not None:
                # Batches before it that were all there.
                while not asked[0][2]:
                    count, keys, _ = asked.popleft()
                    yield Kept(count, len(keys), 0, 0)
            count, keys, _ = asked.popleft()
            new = [(key, tokens, data) for key, tokens, data in rows or () if not store.has(key)]
            evicted = sum([store.put(key, data, tokens) for key, tokens, data in new])
            yield Kept(count, len(keys) - len(new), len(new), evicted)
