"""The score cache: what came of a query and its documents that were read before, least recently used out first.

What one document gets depends on the others that are read with it (one softmax runs over all), so what is remembered
is a query with its set of documents: the same query over the same hits, in any order.
"""

from __future__ import annotations

from connector.backbone.caching.counted_cache import CountedCache
from connector.backbone.runtime import Observations

__all__ = ["ReadingCache"]


class ReadingCache(CountedCache[bytes, Observations]):
    """Observations, bounded by their bytes. Thread-safe.

    Args:
        limit: most bytes; 0 keeps nothing.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(limit, lambda found: found.nbytes)

    def __bool__(self) -> bool:
        """Whether anything is ever kept."""
        return self._entries.maxsize > 0

    def put(self, key: bytes, found: Observations) -> None:
        """Keep it, unless it is larger than the whole cache. Its arrays cannot be written to any more."""
        if found.nbytes <= self._entries.maxsize:
            for array in found.arrays:
                array.flags.writeable = False
            super().put(key, found)
