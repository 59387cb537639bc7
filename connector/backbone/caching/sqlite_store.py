"""Encoded passages in one SQLite file: checked, bounded, least recently used out first, shared between processes.

SQLite and not a memory-mapped store: a passage is copied out of the file anyway (the cache in memory owns its
arrays), that copy is a small part of what decoding costs, damage to the file is an error here and a crash of the
process there, and it comes with Python.
"""

from __future__ import annotations

import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from connector.backbone.caching.sqlite_files import MEND, connect, number, telling, transaction
from connector.errors import BackboneError

__all__ = [
    "DamagedPassageError",
    "PassageStore",
    "StoreStatus",
    "check_kind",
    "drop_passage",
    "has_passage",
    "read_passage",
    "remove_store",
    "store_path",
]

# "RHDC" in the file's header, and the version of the tables: a file of another one is not read.
_APPLICATION = 0x52484443
_VERSION = 1
# Passages have from 20 kB to some MB. Measured: pages of 32 kB waste 12 % at 49 kB, where these waste 4 %, and read
# 2.7 MB in 0.75 ms, where these take 1.04 ms: encoding takes 88 ms.
_PAGE = 8_192
# Log that is kept beside the file.
_LOG_BYTES = 8 * 1024 * 1024
# Pages that a passage may need beyond its own bytes: tables, their indexes, the map of pages.
_SPARE_PAGES = 8
_TABLES = (
    "CREATE TABLE passages (number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, used INTEGER NOT NULL,"
    " tokens INTEGER NOT NULL, bytes INTEGER NOT NULL, checksum INTEGER NOT NULL)",
    "CREATE INDEX passages_by_use ON passages (used)",
    # Apart from the rest: what is counted and sorted stays small.
    "CREATE TABLE states (number INTEGER PRIMARY KEY, data BLOB NOT NULL)",
)


class DamagedPassageError(Exception):
    """The bytes of one passage are not those that were written."""


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """What a store holds.

    Attributes:
        passages: encoded passages.
        vectors: vectors of an embedding model beside the LLM.
        tokens: tokens of the passages.
        bytes: bytes of states and vectors.
        file_bytes: bytes of the file and its log.
        free_bytes: of these, bytes that new passages will take first.
        oldest, newest: seconds since 1970 when the least and the most recently used one was used; None: empty.
    """

    passages: int
    vectors: int
    tokens: int
    bytes: int
    file_bytes: int
    free_bytes: int
    oldest: float | None
    newest: float | None


def store_path(cache: Path) -> Path:
    """The file of the document cache in the folder ``cache.path``."""
    return cache / "documents" / "passages.sqlite3"


def remove_store(path: Path) -> None:
    """Delete a store that cannot be read: its file, its log and the log's index.

    Raises:
        BackboneError: the files cannot be deleted.
    """
    with telling(path):
        for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
            path.with_name(name).unlink(missing_ok=True)


class PassageStore:
    """One file of encoded passages. Thread-safe; any number of processes may have it open.

    Each passage is written in a transaction of its own: when a process is killed, the passage it was writing is
    missing and nothing else. After a power cut the last few may be missing. A folder on a network file system is no
    place for it: SQLite's locks must work there.

    Args:
        path: the file; it is made with its folders when it is not there.
        limit: most bytes of the file, without its log (about 8 MB, for a moment as much as the largest passage).

    Raises:
        BackboneError: the file is no store, was written by another version, or cannot be opened.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.limit = limit
        self._reading, self._writing = Lock(), Lock()
        with telling(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = connect(path)
            try:
                _prepare(self._writer, path)
                held = number(self._writer, "PRAGMA page_count")
                # A bound of SQLite's own, should ours fail; a file that is larger already shrinks by evicting.
                self._writer.execute(f"PRAGMA max_page_count = {max(limit // _PAGE, held, 16)}")
                self._reader = connect(path)
            except BaseException:
                self._writer.close()
                raise

    def get(self, key: bytes) -> bytes | None:
        """The bytes of a passage, or None.

        Raises:
            DamagedPassageError: they are not those that were written; ``drop`` it.
            BackboneError: the store cannot be read.
        """
        with telling(self.path), self._reading:
            return read_passage(self._reader, key)

    def has(self, key: bytes) -> bool:
        """Whether there is such a passage; it is not read.

        Raises:
            BackboneError: the store cannot be read.
        """
        with telling(self.path), self._reading:
            return has_passage(self._reader, key)

    def put(self, key: bytes, data: bytes, tokens: int, uses: Mapping[bytes, float] | None = None) -> int:
        """Write a passage; the least recently used ones make room. One that is there already stays as it is.

        Args:
            key: of the passage.
            data: its bytes.
            tokens: its tokens.
            uses: passage -> when it was used (seconds since 1970), in the order of their use; noted before others
                are evicted.

        Returns:
            How many passages were evicted. What does not fit the whole store is not written.

        Raises:
            BackboneError: the disk is full, or the store cannot be written.
        """
        with self._transaction() as db:
            _note_uses(db, uses or {})
            if has_passage(db, key):
                return 0
            pages = -(-len(data) // (_PAGE - 16)) + _SPARE_PAGES
            if pages > self.limit // _PAGE - _SPARE_PAGES:
                return 0
            evicted = _evict(db, self.limit // _PAGE - pages)
            row = (key, max(time.time_ns(), _newest(db) + 1), tokens, len(data), zlib.crc32(data))
            made = db.execute("INSERT INTO passages (key, used, tokens, bytes, checksum) VALUES (?, ?, ?, ?, ?)", row)
            db.execute("INSERT INTO states VALUES (?, ?)", (made.lastrowid, data))
            return evicted

    def note_uses(self, uses: Mapping[bytes, float]) -> None:
        """Remember when passages were used (seconds since 1970), in the order of their use.

        Raises:
            BackboneError: the store cannot be written.
        """
        if uses:
            with self._transaction() as db:
                _note_uses(db, uses)

    def drop(self, key: bytes) -> None:
        """Forget a passage.

        Raises:
            BackboneError: the store cannot be written.
        """
        with self._transaction() as db:
            drop_passage(db, key)

    def shrink(self, limit: int) -> int:
        """Evict the least recently used passages until so many bytes are left, and give the room back to the disk.

        Returns:
            How many passages were evicted.

        Raises:
            BackboneError: the store cannot be written.
        """
        with self._transaction() as db:
            evicted = _evict(db, limit // _PAGE)
        with telling(self.path), self._writing:
            # It frees one page a step and gives no rows: only a script is stepped to its end.
            self._writer.executescript("PRAGMA incremental_vacuum")
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return evicted

    def verify(self, passing: Callable[[list[bytes]], Iterable[bytes]] = iter) -> tuple[int, int]:
        """Read every passage and drop those that are damaged.

        Args:
            passing: gives the passages' keys one by one, and may show how far it is.

        Returns:
            Passages that were read, and how many of them were dropped.

        Raises:
            BackboneError: more is damaged than passages; the whole store must go.
        """
        with telling(self.path), self._reading:
            keys = [key for (key,) in self._reader.execute("SELECT key FROM passages ORDER BY number")]
        damaged = 0
        for key in passing(keys):
            try:
                self.get(key)
            except DamagedPassageError:
                self.drop(key)
                damaged += 1
        with telling(self.path), self._reading:
            (told,) = self._reader.execute("PRAGMA quick_check(1)").fetchone()
        if told != "ok":
            raise BackboneError(f"the document cache {self.path} is damaged: {told}; {MEND}")
        return len(keys), damaged

    def entries(self) -> int:
        """Number of passages.

        Raises:
            BackboneError: the store cannot be read.
        """
        with telling(self.path), self._reading:
            return number(self._reader, "SELECT count(*) FROM passages")

    def used_bytes(self) -> int:
        """Bytes of the file that are in use: what the limit bounds.

        Raises:
            BackboneError: the store cannot be read.
        """
        with telling(self.path), self._reading:
            return _used_pages(self._reader) * _PAGE

    def status(self) -> StoreStatus:
        """What the store holds; reads the table of passages once.

        Raises:
            BackboneError: the store cannot be read.
        """
        with telling(self.path), self._reading:
            entries, passages, tokens, size, oldest, newest = self._reader.execute(
                # A vector is of no tokens of the LLM.
                "SELECT count(*), coalesce(sum(tokens > 0), 0), coalesce(sum(tokens), 0), coalesce(sum(bytes), 0),"
                " min(used), max(used)"
                " FROM passages"
            ).fetchone()
            free = number(self._reader, "PRAGMA freelist_count") * _PAGE
            files = (self.path, self.path.with_name(f"{self.path.name}-wal"))
            held = sum(file.stat().st_size for file in files if file.is_file())
        times = [None if used is None else used / 1e9 for used in (oldest, newest)]
        return StoreStatus(passages, entries - passages, tokens, size, held, free, times[0], times[1])

    def close(self) -> None:
        """Let go of the file; may be called again."""
        with self._reading, self._writing, suppress(sqlite3.Error):
            self._reader.close()
            self._writer.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with telling(self.path), self._writing, transaction(self._writer):
            yield self._writer


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Set up a connection that writes; make the tables in a new file.

    Pages are not mapped into memory: of a file that was cut short, reading then is an error, not the process's end.
    """
    if not number(db, "SELECT count(*) FROM sqlite_schema"):
        # Both must stand before the first table does.
        db.execute(f"PRAGMA page_size = {_PAGE}")
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("BEGIN IMMEDIATE")
        # Another process may have been first.
        if not number(db, "SELECT count(*) FROM sqlite_schema"):
            for statement in (
                *_TABLES,
                f"PRAGMA application_id = {_APPLICATION}",
                f"PRAGMA user_version = {_VERSION}",
            ):
                db.execute(statement)
        db.execute("COMMIT")
    check_kind(db, path)
    db.execute("PRAGMA journal_mode = WAL").fetchall()
    for pragma in (
        # Enough against a killed process; after a power cut the file is whole, its last transactions may be missing.
        "synchronous = NORMAL",
        f"wal_autocheckpoint = {_LOG_BYTES // _PAGE}",
        f"journal_size_limit = {_LOG_BYTES}",
    ):
        db.execute(f"PRAGMA {pragma}").fetchall()


def check_kind(db: sqlite3.Connection, path: Path) -> None:
    """Is it a document cache of this version?

    Raises:
        BackboneError: it is not.
    """
    application, version = number(db, "PRAGMA application_id"), number(db, "PRAGMA user_version")
    if application != _APPLICATION:
        raise BackboneError(f"{path} is no document cache; move it away, or {MEND}")
    if version != _VERSION:
        raise BackboneError(
            f"the document cache {path} has version {version}, this program reads version {_VERSION}; {MEND}"
        )


def read_passage(db: sqlite3.Connection, key: bytes) -> bytes | None:
    """The bytes of a passage, or None.

    Raises:
        DamagedPassageError: they are not those that were written.
    """
    found = db.execute(
        "SELECT bytes, checksum, data FROM passages JOIN states USING (number) WHERE key = ?", (key,)
    ).fetchone()
    if found is None:
        return None
    size, checksum, data = found
    if not isinstance(data, bytes) or len(data) != size or zlib.crc32(data) != checksum:
        raise DamagedPassageError(key.hex())
    return data


def has_passage(db: sqlite3.Connection, key: bytes) -> bool:
    """Whether there is such a passage; it is not read."""
    return db.execute("SELECT 1 FROM passages WHERE key = ?", (key,)).fetchone() is not None


def _used_pages(db: sqlite3.Connection) -> int:
    return number(db, "PRAGMA page_count") - number(db, "PRAGMA freelist_count")


def _note_uses(db: sqlite3.Connection, uses: Mapping[bytes, float]) -> None:
    now, newest = time.time_ns(), _newest(db)
    if newest > now:
        # The clock was set back. What is used now is the last to go all the same; so it is with what is put.
        rows = [(newest + place, key) for place, key in enumerate(uses, 1)]
    else:
        rows = [(min(int(used * 1e9), now), key) for key, used in uses.items()]
    db.executemany("UPDATE passages SET used = max(used, ?) WHERE key = ?", rows)


def _newest(db: sqlite3.Connection) -> int:
    return number(db, "SELECT coalesce(max(used), 0) FROM passages")


def _evict(db: sqlite3.Connection, pages: int) -> int:
    """Delete passages, least recently used first, until at most so many pages are in use; returns how many."""
    evicted = 0
    while _used_pages(db) > pages:
        oldest = db.execute("SELECT number FROM passages ORDER BY used LIMIT 1").fetchone()
        if oldest is None:
            break
        _delete(db, oldest[0])
        evicted += 1
    return evicted


def drop_passage(db: sqlite3.Connection, key: bytes) -> bool:
    """Forget a passage in a transaction of the caller's; False: it was not there."""
    found = db.execute("SELECT number FROM passages WHERE key = ?", (key,)).fetchone()
    if found is not None:
        _delete(db, found[0])
    return found is not None


def _delete(db: sqlite3.Connection, passage: int) -> None:
    db.execute("DELETE FROM passages WHERE number = ?", (passage,))
    db.execute("DELETE FROM states WHERE number = ?", (passage,))
