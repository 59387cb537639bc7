"""How the file of the document cache is opened, written, and what is told when that fails."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from connector.errors import BackboneError
from connector.storage_faults import os_error_of, storage_mend

__all__ = ["MEND", "connect", "number", "telling", "transaction"]

MEND = "begin a new one with: rh-connector cache prune --all"
"""What helps against a damaged file."""
_ELSEWHERE = "set cache.path to another folder"
# Writers of other processes are waited for so long; readers wait for nobody, but for a file that is being made.
_PATIENCE_S = 10.0


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Whatever SQLite or the file system says, as one line that names the file.

    Raises:
        BackboneError: instead of what was raised.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        fault = os_error_of(error) or _full(error, path)
        mend = "another process may be writing; try again" if fault is None else storage_mend(fault, _ELSEWHERE)
        raise BackboneError(f"the document cache {path} cannot be used now: {error}; {mend}") from error
    except sqlite3.DatabaseError as error:
        raise BackboneError(f"the document cache {path} is damaged: {error}; {MEND}") from error
    except sqlite3.Error as error:
        raise BackboneError(f"the document cache {path} cannot be used: {error}") from error
    except OSError as error:
        mend = storage_mend(error, _ELSEWHERE)
        raise BackboneError(f"the document cache {path} cannot be used: {error.strerror or error}; {mend}") from error


def _full(error: sqlite3.Error, path: Path) -> OSError | None:
    """A full disk where SQLite tells only that the file beside its log could not be made larger."""
    told = getattr(error, "sqlite_errorname", "")
    if told.startswith("SQLITE_IOERR") and not shutil.disk_usage(path.parent).free:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return None


def connect(path: Path) -> sqlite3.Connection:
    """A connection without transactions but those that are begun; locks of the caller's own keep threads apart."""
    return sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False)


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of what is written within, or nothing of it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        # SQLite may have rolled back by itself (a full disk), then this is one error more.
        with suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def number(db: sqlite3.Connection, query: str, *values: object) -> int:
    """The one number that a query finds."""
    return int(db.execute(query, values).fetchone()[0])
