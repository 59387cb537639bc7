"""Encoded passages of another machine: one finished file that many machines read, and none writes."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Lock
from typing import TypeVar

from connector.backbone.caching.sqlite_files import connect, number, telling
from connector.backbone.caching.sqlite_store import DamagedPassageError, check_kind, has_passage, read_passage
from connector.backbone.runtime import EncodedDocument
from connector.errors import BackboneError
from connector.sections import CacheSettings
from connector.whole_files import replacing

__all__ = ["SharedCache", "export_store", "shared_entries"]

logger = logging.getLogger(__name__)
Found = TypeVar("Found")
# A file that was replaced is seen after so long.
_LOOK_S = 30.0
_MEND = "documents are encoded here instead; make the file anew with: rh-connector cache export FILE"


def export_store(store: Path, target: Path) -> int:
    """Write a document cache as one finished file that needs neither log nor locks; what was there is replaced.

    Args:
        store: the file of a document cache; others may write it meanwhile.
        target: the finished file, on any file system.

    Returns:
        Its bytes.

    Raises:
        BackboneError: there is no such cache, or the file cannot be written.
    """
    if not store.is_file():
        raise BackboneError(f"{store} is not there; fill it with: rh-connector index --precompute, or cache sync")
    with telling(store), closing(connect(store)) as db:
        check_kind(db, store)
    with telling(target):
        with replacing(target) as part:
            with closing(connect(store)) as db:
                db.execute("VACUUM INTO ?", (str(part),))
            with closing(connect(part)) as db:
                # Else readers would look for a log beside it.
                db.execute("PRAGMA journal_mode = DELETE").fetchall()
            with part.open("rb") as file:
                os.fsync(file.fileno())
        return target.stat().st_size


def shared_entries(path: Path) -> int:
    """How many passages a finished file holds.

    Raises:
        BackboneError: it is missing, damaged or of another version; the message ends with what mends it.
    """
    try:
        path.stat()
        with closing(_opened(path)) as db:
            # Without vectors, which are of no tokens of the LLM.
            return number(db, "SELECT count(*) FROM passages WHERE tokens > 0")
    except OSError as error:
        raise BackboneError(f"{path} cannot be read: {error.strerror or error}; {_MEND}") from None
    except sqlite3.Error as error:
        raise BackboneError(f"{path} cannot be read: {error}; {_MEND}") from None
    except BackboneError:
        raise BackboneError(f"{path} is no document cache of this program's version; {_MEND}") from None


def _opened(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
    try:
        check_kind(db, path)
    except BaseException:
        db.close()
        raise
    return db


class SharedCache:
    """A finished file of encoded passages. Thread-safe; no method raises, and nothing is written or locked.

    SQLite reads the file as one that does not change (https://sqlite.org/uri.html, ``immutable``): a network file
    system and a read-only mount will do. ``export_store`` puts a newer file in its place, and it is seen soon.

    Args:
        path: the file.
        load: the runtime's ``load_document``.
        look_s: seconds between two looks whether it is there, and still the same.
    """

    def __init__(self, path: Path, load: Callable[[bytes], EncodedDocument], *, look_s: float = _LOOK_S) -> None:
        self._path, self._load, self._look_s = path, load, look_s
        self._lock = Lock()
        self._db: sqlite3.Connection | None = None
        self._stamp: tuple[int, ...] | None = None
        self._look_after = float("-inf")
        self._logged: set[str] = set()

    @classmethod
    def from_settings(cls, cache: CacheSettings, load: Callable[[bytes], EncodedDocument]) -> SharedCache | None:
        """The file ``cache.shared``; None where it is not set."""
        return None if cache.shared is None else cls(cache.shared, load)

    def get(self, key: bytes) -> EncodedDocument | None:
        """The passage's states; None where they are not there, damaged or of another kind."""
        with self._lock:
            data = self._read(read_passage, key)
        if data is None:
            return None
        try:
            return self._load(data)
        except BackboneError as error:
            self._say(f"holds what cannot be used: {error}")
            return None

    def has(self, key: bytes) -> bool:
        """Whether there is such a passage; it is not read."""
        with self._lock:
            return bool(self._read(has_passage, key))

    def close(self) -> None:
        """Let go of the file; a look at it opens it again."""
        with self._lock:
            self._let_go()

    def _read(self, ask: Callable[[sqlite3.Connection, bytes], Found], key: bytes) -> Found | None:
        self._look()
        if self._db is None:
            return None
        try:
            return ask(self._db, key)
        except DamagedPassageError:
            self._say("holds damaged passages")
        except sqlite3.Error as error:
            self._let_go()
            self._say(f"cannot be read: {error}")
        return None

    def _look(self) -> None:
        if time.monotonic() < self._look_after:
            return
        self._look_after = time.monotonic() + self._look_s
        try:
            found = self._path.stat()
            stamp = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
            if stamp != self._stamp:
                self._let_go()
                self._db, self._stamp = _opened(self._path), stamp
        except OSError as error:
            self._let_go()
            self._say(f"cannot be read: {error.strerror or error}")
        except sqlite3.Error as error:
            self._say(f"cannot be read: {error}")
        except BackboneError:
            self._say("is no document cache of this program's version")

    def _let_go(self) -> None:
        db, self._db, self._stamp = self._db, None, None
        if db is not None:
            db.close()

    def _say(self, text: str) -> None:
        if text not in self._logged:
            self._logged.add(text)
            logger.warning("cache.shared = %s %s; %s (this is said once)", self._path, text, _MEND)
