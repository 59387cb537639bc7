"""The document cache: encoded passages in memory, least recently used out first, and behind it on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from threading import Lock

from cachetools import LRUCache

from connector.backbone.caching.counted_cache import Lookups
from connector.backbone.caching.disk_cache import DiskCache
from connector.backbone.caching.shared_cache import SharedCache
from connector.backbone.runtime import EncodedDocument

__all__ = ["CacheStatistics", "DocumentCache"]


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Counts since the start.

    Attributes:
        hits: passages that were found, in memory or on disk.
        misses: passages that were not.
        evictions: passages that left memory to make room.
        entries: passages held in memory now.
        tokens: tokens of these passages.
        bytes: bytes held in memory now.
        limit: most bytes that are held in memory.
        disk_hits: passages and vectors that came from disk.
        disk_evictions: passages and vectors that this process removed from disk to make room.
        disk_entries: passages and vectors on disk now.
        disk_bytes: bytes on disk now.
        disk_limit: most bytes on disk; 0: there is no disk level.
        disk_damaged: passages and vectors on disk that could not be read, and were dropped.
        disk_unwritten: passages and vectors that the disk did not take.
    """

    hits: int
    misses: int
    evictions: int
    entries: int
    tokens: int
    bytes: int
    limit: int
    disk_hits: int = 0
    disk_evictions: int = 0
    disk_entries: int = 0
    disk_bytes: int = 0
    disk_limit: int = 0
    disk_damaged: int = 0
    disk_unwritten: int = 0


class DocumentCache:
    """Encoded passages, bounded by the bytes of their arrays. Thread-safe.

    Args:
        limit: most bytes in memory; 0 keeps nothing there.
        disk: where passages also go, and come back from; None: nowhere.
        shared: where passages of other machines come from; None: nowhere.
    """

    def __init__(self, limit: int, disk: DiskCache | None = None, shared: SharedCache | None = None) -> None:
        self._entries: LRUCache[bytes, EncodedDocument] = _Counting(limit)
        self._disk, self._shared = disk, shared
        self._lock = Lock()
        self._hits = self._misses = 0
        # Those of the hits that memory had.
        self._memory_hits = self._shared_hits = 0

    def get(self, key: bytes) -> EncodedDocument | None:
        """The passage's states, or None; counts a hit or a miss. What comes from disk is kept in memory."""
        return self.get_many([key])[0]

    def get_many(self, keys: Sequence[bytes]) -> list[EncodedDocument | None]:
        """``get`` for each key."""
        with self._lock:
            found = [self._entries.get(key) for key in keys]
        in_memory = len(found) - found.count(None)
        shared = 0
        if self._disk is not None:
            for at, key in enumerate(keys):
                if found[at] is not None:
                    self._disk.used(key)
                    continue
                read = found[at] = self._disk.get(key)
                if read is not None:
                    self._keep(key, read)
        if self._shared is not None:
            for at, key in enumerate(keys):
                if found[at] is None and (read := self._shared.get(key)) is not None:
                    found[at] = read
                    shared += 1
                    self._keep(key, read)
        with self._lock:
            missed = found.count(None)
            self._misses += missed
            self._hits += len(found) - missed
            self._memory_hits += in_memory
            self._shared_hits += shared
        return found

    def peek(self, key: bytes) -> EncodedDocument | None:
        """The passage's states where memory has them; nothing is counted."""
        with self._lock:
            return self._entries.get(key)

    def knows(self, key: bytes) -> bool:
        """Whether the passage need not be encoded: it is in memory or on disk; nothing is counted."""
        return self.peek(key) is not None or self.has(key)

    def has(self, key: bytes) -> bool:
        """Whether the passage is kept for good: on disk where there is one, else in memory; nothing is counted."""
        if self._shared is not None and self._shared.has(key):
            return True
        if self._disk is not None:
            return self._disk.has(key)
        with self._lock:
            return key in self._entries

    def keep(
        self, keys: Sequence[bytes], make: Callable[[list[int]], Iterable[tuple[bytes, EncodedDocument]]]
    ) -> tuple[int, int]:
        """Make and put what is not kept for good; see ``has``.

        Args:
            keys: each once.
            make: gives keys and states for the places of those that are missing.

        Returns:
            How many were there, and how many were made.
        """
        missing = [at for at, key in enumerate(keys) if not self.has(key)]
        for key, document in make(missing):
            self.put(key, document)
        return len(keys) - len(missing), len(missing)

    def put(self, key: bytes, document: EncodedDocument) -> None:
        """Keep a passage's states; what is larger than the whole memory or disk is not kept there."""
        self._keep(key, document)
        if self._disk is not None:
            self._disk.put(key, document)

    def clear(self) -> None:
        """Forget every passage in memory; the counts, and what is on disk, stay."""
        with self._lock:
            for key in list(self._entries):
                del self._entries[key]

    def flush(self) -> None:
        """Wait until what was put is on disk, where there is one."""
        if self._disk is not None:
            self._disk.flush()

    def close(self) -> None:
        """Write what the disk does not have yet and let go of it; memory goes on. May be called again."""
        if self._disk is not None:
            self._disk.close()
        if self._shared is not None:
            self._shared.close()

    def lookups(self) -> dict[str, Lookups]:
        """Look-ups of ``memory``, then of ``disk`` and ``shared`` where there are: each is asked for what lacks."""
        with self._lock:
            lacked = self._hits - self._memory_hits
            levels = {"memory": Lookups(self._memory_hits, self._misses + lacked)}
            if self._disk is not None:
                levels["disk"] = Lookups(lacked - self._shared_hits, self._misses + self._shared_hits)
            if self._shared is not None:
                levels["shared"] = Lookups(self._shared_hits, self._misses)
            return levels

    def statistics(self) -> CacheStatistics:
        """The counts so far."""
        disk = None if self._disk is None else self._disk.statistics()
        with self._lock:
            entries = self._entries
            assert isinstance(entries, _Counting)
            memory = CacheStatistics(
                self._hits,
                self._misses,
                entries.evictions,
                len(entries),
                sum(entry.tokens for entry in entries.values()),
                int(entries.currsize),
                int(entries.maxsize),
            )
        if disk is None:
            return memory
        return replace(
            memory,
            disk_hits=disk.hits,
            disk_evictions=disk.evictions,
            disk_entries=disk.entries,
            disk_bytes=disk.bytes,
            disk_limit=disk.limit,
            disk_damaged=disk.damaged,
            disk_unwritten=disk.unwritten,
        )

    def _keep(self, key: bytes, document: EncodedDocument) -> None:
        with self._lock:
            if document.nbytes <= self._entries.maxsize:
                self._entries[key] = document


class _Counting(LRUCache[bytes, EncodedDocument]):
    """An LRU cache that weighs entries by their bytes and counts what it throws out."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit, getsizeof=lambda document: document.nbytes)
        self.evictions = 0

    def popitem(self) -> tuple[bytes, EncodedDocument]:
        self.evictions += 1
        return super().popitem()
