"""A bounded cache that counts how often it was asked, and how often it knew."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

from cachetools import LRUCache

__all__ = ["CountedCache", "CountedStatistics", "Lookups"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Lookups(NamedTuple):
    """How often a cache was asked since the start: it knew the answer (hits), or not (misses)."""

    hits: int
    misses: int


@dataclass(frozen=True, slots=True)
class CountedStatistics:
    """Counts since the start.

    Attributes:
        hits, misses: numbers of look-ups.
        entries: entries held now; bytes: their sizes; limit: most that is held.
    """

    hits: int
    misses: int
    entries: int
    bytes: int
    limit: int


class CountedCache(Generic[K, V]):
    """Least recently used out first, bounded by what the entries weigh. Thread-safe.

    Args:
        limit: most that all entries weigh; 0 keeps nothing.
        size: what an entry weighs, in bytes.
    """

    def __init__(self, limit: int, size: Callable[[V], int]) -> None:
        self._size = size
        self._entries: LRUCache[K, V] = LRUCache(limit, getsizeof=size)
        self._lock = Lock()
        self._hits = self._misses = 0

    def __len__(self) -> int:
        """Number of entries."""
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """What is kept, or None; counts a hit or a miss."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                self._misses += 1
            else:
                self._hits += 1
            return found

    def put(self, key: K, value: V) -> None:
        """Keep it, unless it is larger than the whole cache."""
        with self._lock:
            if self._size(value) <= self._entries.maxsize:
                self._entries[key] = value

    def clear(self) -> None:
        """Forget everything; the counts stay."""
        with self._lock:
            for key in list(self._entries):
                del self._entries[key]

    def lookups(self) -> Lookups:
        """The look-ups so far."""
        with self._lock:
            return Lookups(self._hits, self._misses)

    def statistics(self) -> CountedStatistics:
        """The counts so far."""
        with self._lock:
            entries = self._entries
            return CountedStatistics(
                self._hits, self._misses, len(entries), int(entries.currsize), int(entries.maxsize)
            )
