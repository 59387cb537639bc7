"""The score cache: what came of a query and its documents that were read before, least recently used out first.

What one document gets depends on the others that are read with it (one softmax runs over all), so what is remembered
is a query with its set of documents: the same query over the same hits, in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

from cachetools import LRUCache

from connector.backbone.runtime import Observations

__all__ = ["ReadingCache", "ReadingStatistics"]


@dataclass(frozen=True, slots=True)
class ReadingStatistics:
    """Counts since the start.

    Attributes:
        hits, misses: numbers of readings.
        entries: readings held now; bytes: bytes of their arrays; limit: most bytes that are held.
    """

    hits: int
    misses: int
    entries: int
    bytes: int
    limit: int


class ReadingCache:
    """Observations, bounded by their bytes. Thread-safe.

    Args:
        limit: most bytes; 0 keeps nothing.
    """

    def __init__(self, limit: int) -> None:
        self._entries: LRUCache[bytes, Observations] = LRUCache(limit, getsizeof=lambda found: found.nbytes)
        self._lock = Lock()
        self._hits = self._misses = 0

    def __bool__(self) -> bool:
        """Whether anything is ever kept."""
        return self._entries.maxsize > 0

    def get(self, key: bytes) -> Observations | None:
        """What was found, not to be written to, or None; counts a hit or a miss."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                self._misses += 1
            else:
                self._hits += 1
            return found

    def put(self, key: bytes, found: Observations) -> None:
        """Keep it, unless it is larger than the whole cache. Its arrays cannot be written to any more."""
        with self._lock:
            if found.nbytes <= self._entries.maxsize:
                for array in found.arrays:
                    array.flags.writeable = False
                self._entries[key] = found

    def clear(self) -> None:
        """Forget everything; the counts stay."""
        with self._lock:
            for key in list(self._entries):
                del self._entries[key]

    def statistics(self) -> ReadingStatistics:
        """The counts so far."""
        with self._lock:
            entries = self._entries
            return ReadingStatistics(
                self._hits, self._misses, len(entries), int(entries.currsize), int(entries.maxsize)
            )
