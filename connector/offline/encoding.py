"""Documents encoded by workers, and kept in the document cache here."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from connector.backbone.caching.sqlite_store import PassageStore, store_path
from connector.heads.needs import Needs
from connector.offline.workers import LoadedLlm, Workers
from connector.sections import CacheSettings

if TYPE_CHECKING:
    from connector.backbone.reader import Reader

__all__ = ["Kept", "keeping"]


class _Lacking(NamedTuple):
    """Texts of which states are not kept yet, and those of which vectors are not."""

    states: list[str]
    vectors: list[str]


@dataclass(frozen=True, slots=True)
class _Encode:
    """What is lacking: key, number of the LLM's tokens, bytes."""

    pool: Needs

    def __call__(self, llm: LoadedLlm, lacking: _Lacking) -> list[tuple[bytes, int, bytes]]:
        reader = llm.reader
        made = chain(reader.encoded(lacking.states, self.pool), reader.embedded(lacking.vectors))
        return [(key, entry.tokens, entry.to_bytes()) for key, entry in made]


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
        # Of each batch that is under way: its texts, what is kept of them, and whether a worker has some of it.
        asked: deque[tuple[int, set[bytes], bool]] = deque()

        def unknown() -> Iterator[_Lacking]:
            for batch in batches:
                keys, states = reader.keys(batch, pool), reader.keys(batch, replace(pool, similarity=False))
                lacking = _Lacking([], [])
                for text, every, own in zip(batch, keys, states, strict=True):
                    if not all(store.has(key) for key in own):
                        lacking.states.append(text)
                    if not all(store.has(key) for key in every[len(own) :]):
                        lacking.vectors.append(text)
                asked.append((len(batch), {key for own in keys for key in own}, any(lacking)))
                # What is all there goes to no worker, and keeps its place among the others.
                if any(lacking):
                    yield lacking

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
