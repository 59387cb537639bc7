"""The document cache's level on disk: never in a request's way, and never the reason that one fails."""

from __future__ import annotations

import atexit
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Lock, Thread

from connector.backbone.caching.sqlite_store import DamagedPassageError, PassageStore, store_path
from connector.backbone.runtime import EncodedDocument
from connector.errors import BackboneError
from connector.sections import CacheSettings

__all__ = ["DiskCache", "DiskStatistics"]

logger = logging.getLogger(__name__)
# Passages that wait for the disk; more are left unwritten rather than kept in memory twice.
_QUEUE_BYTES = 256_000_000
# After a failure the disk is left alone for so long.
_PAUSE_S = 60.0
# Uses are written down so often at most: which passage goes first matters little to the minute.
_USES_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class DiskStatistics:
    """Counts of one process since its start, and what the file holds now.

    Attributes:
        hits: passages that were read.
        damaged: passages that were dropped because they could not be read.
        unwritten: passages that were not written: the disk failed or was too slow.
        evictions: passages that this process removed to make room.
        entries: passages in the file; bytes: bytes of the file that they take; limit: most bytes.
    """

    hits: int
    damaged: int
    unwritten: int
    evictions: int
    entries: int
    bytes: int
    limit: int


class DiskCache:
    """Encoded passages on disk, for this process and others. Thread-safe; no method raises.

    Passages are read in the caller's thread and written in one thread behind it. What fails (a full disk, a file of
    another version) is logged once and tried again after a minute; until then nothing is found and nothing kept.

    Args:
        path: the file.
        limit: most bytes of it.
        load: the runtime's ``load_document``.
        pause_s: seconds that the disk is left alone after a failure.
        uses_every_s: seconds between two times that it is written down which passages were used.
    """

    def __init__(
        self,
        path: Path,
        limit: int,
        load: Callable[[bytes], EncodedDocument],
        *,
        pause_s: float = _PAUSE_S,
        uses_every_s: float = _USES_EVERY_S,
    ) -> None:
        self._path, self._limit, self._load = path, limit, load
        self._pause_s, self._uses_every_s = pause_s, uses_every_s
        self._opening = Lock()
        self._store: PassageStore | None = None
        self._open_after = self._write_after = float("-inf")
        self._logged = False
        self._changed = Condition()
        self._waiting: dict[bytes, EncodedDocument] = {}
        self._waiting_bytes = 0
        self._uses: dict[bytes, float] = {}
        self._uses_written = time.monotonic()
        self._hits = self._damaged = self._unwritten = self._evictions = 0
        self._thread: Thread | None = None
        # Closed: nothing is put any more; finished: all that was put is written, and the file let go.
        self._closed = self._finished = False
        # What waits is written before the process ends.
        atexit.register(self.close)

    @classmethod
    def from_settings(cls, cache: CacheSettings, load: Callable[[bytes], EncodedDocument]) -> DiskCache | None:
        """The cache in ``cache.path``; None where ``cache.disk_mb`` is 0."""
        if not cache.disk_mb:
            return None
        return cls(store_path(cache.path), cache.disk_mb * 1_000_000, load)

    def get(self, key: bytes) -> EncodedDocument | None:
        """The passage's states, or None. What is damaged or of another kind is dropped, to be encoded again."""
        with self._changed:
            waiting = self._waiting.get(key)
        if waiting is not None:
            return waiting
        store = self._opened()
        if store is None:
            return None
        try:
            data = store.get(key)
        except DamagedPassageError:
            self._drop(store, key)
            return None
        except BackboneError as error:
            self._unreadable(error)
            return None
        if data is None:
            return None
        try:
            document = self._load(data)
        except BackboneError:
            self._drop(store, key)
            return None
        with self._changed:
            self._hits += 1
            self._note_use(key)
        return document

    def has(self, key: bytes) -> bool:
        """Whether the passage is on disk or about to be; it is not read."""
        with self._changed:
            if key in self._waiting:
                return True
        store = self._opened()
        try:
            return store is not None and store.has(key)
        except BackboneError as error:
            self._unreadable(error)
            return False

    def used(self, key: bytes) -> None:
        """Note that a passage was used without being read from disk, so that it is not the next to go."""
        with self._changed:
            self._note_use(key)

    def put(self, key: bytes, document: EncodedDocument) -> None:
        """Write a passage soon; returns at once."""
        with self._changed:
            if self._closed or key in self._waiting:
                return
            full = self._waiting_bytes + document.nbytes > _QUEUE_BYTES and bool(self._waiting)
            if full or time.monotonic() < self._write_after:
                self._unwritten += 1
                return
            self._waiting[key] = document
            self._waiting_bytes += document.nbytes
            self._begin_writing()
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until everything that was put is written, or has failed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting)

    def close(self) -> None:
        """Write what waits and let go of the file; what is put later is not kept. May be called again."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        with self._opening:
            self._finished = True
            store, self._store = self._store, None
        if store is not None:
            try:
                store.note_uses(self._uses)
            except BackboneError as error:
                self._failed(error)
            store.close()
        atexit.unregister(self.close)

    def statistics(self) -> DiskStatistics:
        """The counts so far."""
        entries = size = 0
        store = self._opened()
        if store is not None:
            try:
                entries, size = store.entries(), store.used_bytes()
            except BackboneError as error:
                self._unreadable(error)
        with self._changed:
            return DiskStatistics(
                self._hits, self._damaged, self._unwritten, self._evictions, entries, size, self._limit
            )

    def _opened(self) -> PassageStore | None:
        with self._opening:
            if self._store is None and not self._finished and time.monotonic() >= self._open_after:
                try:
                    self._store = PassageStore(self._path, self._limit)
                except BackboneError as error:
                    self._open_after = time.monotonic() + self._pause_s
                    self._failed(error)
            return self._store

    def _unreadable(self, error: BackboneError) -> None:
        """Let go of a store that fails; it is opened again later, perhaps after somebody mended it."""
        with self._opening:
            store, self._store = self._store, None
            self._open_after = time.monotonic() + self._pause_s
        if store is not None:
            store.close()
        self._failed(error)

    def _failed(self, error: Exception) -> None:
        if not self._logged:
            self._logged = True
            logger.warning("%s; documents are kept in memory only (this is said once)", error)

    def _drop(self, store: PassageStore, key: bytes) -> None:
        with self._changed:
            self._damaged += 1
        try:
            store.drop(key)
        except BackboneError as error:
            self._unreadable(error)

    def _note_use(self, key: bytes) -> None:
        if not self._closed:
            # Behind all others: a clock may be set back.
            self._uses.pop(key, None)
            self._uses[key] = time.time()
            self._begin_writing()

    def _begin_writing(self) -> None:
        if self._thread is None:
            self._thread = Thread(target=self._write, name="document cache", daemon=True)
            self._thread.start()

    def _write(self) -> None:
        while True:
            with self._changed:
                # Without a passage to write, uses are written alone: a service whose documents are all known.
                self._changed.wait_for(lambda: self._waiting or self._closed, self._uses_every_s)
                if self._closed and not self._waiting:
                    return
                key, document = next(iter(self._waiting.items()), (b"", None))
                uses = self._due_uses()
            if document is None:
                self._write_uses(uses)
                continue
            written = self._write_one(key, document, uses)
            with self._changed:
                del self._waiting[key]
                self._waiting_bytes -= document.nbytes
                self._unwritten += not written
                self._changed.notify_all()

    def _write_uses(self, uses: dict[bytes, float]) -> None:
        store = self._opened() if uses and time.monotonic() >= self._write_after else None
        if store is None:
            return
        try:
            store.note_uses(uses)
        except BackboneError as error:
            self._write_after = time.monotonic() + self._pause_s
            self._failed(error)

    def _write_one(self, key: bytes, document: EncodedDocument, uses: dict[bytes, float]) -> bool:
        if time.monotonic() < self._write_after:
            return False
        store = self._opened()
        if store is None:
            return False
        try:
            evicted = store.put(key, document.to_bytes(), document.tokens, uses)
        except Exception as error:
            # Whatever it is: this thread must go on, flush() waits for it.
            self._write_after = time.monotonic() + self._pause_s
            self._failed(error)
            return False
        self._evictions += evicted
        return True

    def _due_uses(self) -> dict[bytes, float]:
        if time.monotonic() - self._uses_written < self._uses_every_s:
            return {}
        uses, self._uses, self._uses_written = self._uses, {}, time.monotonic()
        return uses
