"""The document cache: encoded passages in memory, least recently used out first."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from cachetools import LRUCache

from connector.backbone.runtime import EncodedDocument

__all__ = ["CacheStatistics", "DocumentCache", "passage_key"]


def passage_key(namespace: str, tokens: Sequence[int]) -> bytes:
    """The key of a passage: hash of what encodes it (fingerprint, layout, pool) and of its token ids."""
    digest = hashlib.blake2b(namespace.encode(), digest_size=16)
    digest.update(np.asarray(tokens, dtype="<i4").tobytes())
    return digest.digest()


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Counts since the start.

    Attributes:
        hits, misses, evictions: numbers of passages.
        entries: passages held now.
        tokens: tokens of these passages.
        bytes: bytes held now.
        limit: most bytes that are held.
    """

    hits: int
    misses: int
    evictions: int
    entries: int
    tokens: int
    bytes: int
    limit: int


class DocumentCache:
    """Encoded passages, bounded by the bytes of their arrays. Thread-safe.

    Args:
        limit: most bytes; 0 keeps nothing.
    """

    def __init__(self, limit: int) -> None:
        self._entries: LRUCache[bytes, EncodedDocument] = _Counting(limit)
        self._lock = Lock()
        self._hits = 0
        self._misses = 0

    def get(self, key: bytes) -> EncodedDocument | None:
        """The passage's states, or None; counts a hit or a miss."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                self._misses += 1
            else:
                self._hits += 1
            return found

    def put(self, key: bytes, document: EncodedDocument) -> None:
        """Keep a passage's states; what is larger than the whole cache is not kept."""
        with self._lock:
            if document.nbytes <= self._entries.maxsize:
                self._entries[key] = document

    def clear(self) -> None:
        """Forget every passage; the counts stay."""
        with self._lock:
            for key in list(self._entries):
                del self._entries[key]

    def statistics(self) -> CacheStatistics:
        """The counts so far."""
        with self._lock:
            entries = self._entries
            assert isinstance(entries, _Counting)
            return CacheStatistics(
                self._hits,
                self._misses,
                entries.evictions,
                len(entries),
                sum(entry.tokens for entry in entries.values()),
                int(entries.currsize),
                int(entries.maxsize),
            )


class _Counting(LRUCache[bytes, EncodedDocument]):
    """An LRU cache that weighs entries by their bytes and counts what it throws out."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit, getsizeof=lambda document: document.nbytes)
        self.evictions = 0

    def popitem(self) -> tuple[bytes, EncodedDocument]:
        self.evictions += 1
        return super().popitem()
