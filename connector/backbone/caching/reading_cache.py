"""The score cache: attention rows of a query and its documents that were read before, least recently used out first.

What one document gets depends on the others that are read with it (one softmax runs over all), so what is remembered
is a query with its set of documents: the same query over the same hits, in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache

__all__ = ["ReadingCache", "ReadingStatistics"]

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ReadingStatistics:
    """Counts since the start.

    Attributes:
        hits, misses: numbers of readings.
        entries: readings held now; bytes: bytes of their rows; limit: most bytes that are held.
    """

    hits: int
    misses: int
    entries: int
    bytes: int
    limit: int


class ReadingCache:
    """Attention rows, bounded by their bytes. Thread-safe.

    Args:
        limit: most bytes; 0 keeps nothing.
    """

    def __init__(self, limit: int) -> None:
        self._entries: LRUCache[bytes, Rows] = LRUCache(limit, getsizeof=lambda rows: rows.nbytes)
        self._lock = Lock()
        self._hits = self._misses = 0

    def __bool__(self) -> bool:
        """Whether anything is ever kept."""
        return self._entries.maxsize > 0

    def get(self, key: bytes) -> Rows | None:
        """The rows, not to be written to, or None; counts a hit or a miss."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                self._misses += 1
            else:
                self._hits += 1
            return found

    def put(self, key: bytes, rows: Rows) -> None:
        """Keep rows; what is larger than the whole cache is not kept. They cannot be written to any more."""
        with self._lock:
            if rows.nbytes <= self._entries.maxsize:
                rows.flags.writeable = False
                self._entries[key] = rows

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
