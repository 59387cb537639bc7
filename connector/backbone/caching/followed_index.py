"""Which passages on disk are whose: what is remembered of an index whose documents the disk follows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from connector.backbone.caching.sqlite_files import connect, number, telling, transaction
from connector.backbone.caching.sqlite_store import PassageStore, drop_passage

__all__ = ["FollowedIndex", "KnownDocument", "Recorded", "forget_followed"]

# In the file of the passages: a document's passages go, and it is remembered that they went, together or not at all.
_TABLES = (
    "CREATE TABLE IF NOT EXISTS followed (number INTEGER PRIMARY KEY, place TEXT NOT NULL, encoding TEXT NOT NULL,"
    " field TEXT, mark INTEGER, UNIQUE (place, encoding))",
    "CREATE TABLE IF NOT EXISTS followed_documents (number INTEGER PRIMARY KEY, followed INTEGER NOT NULL,"
    " id TEXT NOT NULL, version TEXT NOT NULL, UNIQUE (followed, id))",
    "CREATE TABLE IF NOT EXISTS followed_passages (document INTEGER NOT NULL, key BLOB NOT NULL,"
    " PRIMARY KEY (document, key)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS followed_passages_by_key ON followed_passages (key)",
)
# Of one connection alone.
_SEEN = "CREATE TEMP TABLE seen (id TEXT PRIMARY KEY, version TEXT NOT NULL) WITHOUT ROWID"
# Documents that leave in one transaction: other writers wait for it.
_TOGETHER = 200


@dataclass(frozen=True, slots=True)
class KnownDocument:
    """A document as it was read.

    Attributes:
        id: unique in what is followed.
        version: differs whenever the document was written; equal versions are the same content.
        keys: of its passages in the document cache.
    """

    id: str
    version: str
    keys: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was new.

    Attributes:
        added: documents that were not known.
        changed: known documents that have other passages now.
        dropped: passages that left the disk, because no known document has them any more.
    """

    added: int = 0
    changed: int = 0
    dropped: int = 0

    def __add__(self, other: Recorded) -> Recorded:
        return Recorded(self.added + other.added, self.changed + other.changed, self.dropped + other.dropped)


class FollowedIndex:
    """The known documents of one index, read with one model and settings. For one thread.

    A document is recorded before its passages are encoded: whatever ends the process, no passage is left behind that
    belongs to no document. What is recorded and not on disk is ``pending``.

    Args:
        path: the file of a ``PassageStore``; it is made where there is none.
        limit: see ``PassageStore``.
        place: which index.
        encoding: what the passages' keys depend on besides the documents. Each has documents of its own.

    Raises:
        BackboneError: see ``PassageStore``; so does every method.
    """

    def __init__(self, path: Path, limit: int, place: str, encoding: str) -> None:
        self._path, self._place = path, place
        PassageStore(path, limit).close()
        with telling(path):
            self._db = connect(path)
            try:
                self._db.execute("PRAGMA synchronous = NORMAL").fetchall()
                with transaction(self._db):
                    for statement in (*_TABLES, _SEEN):
                        self._db.execute(statement)
                    own = (place, encoding)
                    self._db.execute("INSERT OR IGNORE INTO followed (place, encoding) VALUES (?, ?)", own)
                self._own = number(
                    self._db, "SELECT number FROM followed WHERE place = ? AND encoding = ?", place, encoding
                )
            except BaseException:
                self._db.close()
                raise

    def look_again(self) -> None:
        """Forget what was ``see``n."""
        with telling(self._path):
            self._db.execute("DELETE FROM seen")

    def see(self, versions: Iterable[tuple[str, str]]) -> None:
        """Note (id, version) of documents that the index has now; of equal ids the last counts."""
        # Its own transaction, and one of the temporary table only: no other process waits for it.
        with telling(self._path):
            self._db.execute("BEGIN")
            try:
                self._db.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?)", versions)
            finally:
                self._db.execute("COMMIT")

    def pending(self) -> list[str]:
        """Those seen that are not known, have another version, or miss a passage on disk."""
        with telling(self._path):
            found = self._db.execute(
                "SELECT seen.id FROM seen LEFT JOIN followed_documents AS known"
                " ON known.followed = ? AND known.id = seen.id"
                " WHERE known.number IS NULL OR known.version <> seen.version OR EXISTS (SELECT 1"
                " FROM followed_passages AS own WHERE own.document = known.number"
                " AND NOT EXISTS (SELECT 1 FROM passages WHERE passages.key = own.key))",
                (self._own,),
            )
            return [identity for (identity,) in found]

    def documents(self) -> int:
        """Number of known documents."""
        with telling(self._path):
            return number(self._db, "SELECT count(*) FROM followed_documents WHERE followed = ?", self._own)

    def passages(self) -> int:
        """Distinct passages on disk of the known documents that were seen."""
        with telling(self._path):
            return number(
                self._db,
                "SELECT count(DISTINCT own.key) FROM seen JOIN followed_documents AS known"
                " ON known.followed = ? AND known.id = seen.id"
                " JOIN followed_passages AS own ON own.document = known.number"
                " JOIN passages ON passages.key = own.key",
                self._own,
            )

    def record(self, documents: Iterable[KnownDocument]) -> Recorded:
        """Remember documents as they are now; passages that only their older versions had leave the disk."""
        done = Recorded()
        with telling(self._path), transaction(self._db):
            for document in documents:
                done += self._record(document)
        return done

    def forget_unseen(self) -> tuple[int, int]:
        """Forget documents that were not seen, whichever encoding knows them, and drop what only they had.

        Returns:
            Documents that were forgotten, and passages that left the disk.
        """
        with telling(self._path):
            gone = self._db.execute(
                "SELECT known.number, known.id FROM followed JOIN followed_documents AS known"
                " ON known.followed = followed.number WHERE followed.place = ?"
                " AND NOT EXISTS (SELECT 1 FROM seen WHERE seen.id = known.id)",
                (self._place,),
            ).fetchall()
            dropped = 0
            for start in range(0, len(gone), _TOGETHER):
                with transaction(self._db):
                    for document, _ in gone[start : start + _TOGETHER]:
                        dropped += self._take(document, self._keys(document))
                        self._db.execute("DELETE FROM followed_documents WHERE number = ?", (document,))
        return len({identity for _, identity in gone}), dropped

    def mark(self, field: str) -> int | None:
        """How far a field was followed; None: it was not, or another one was after it."""
        with telling(self._path):
            found = self._db.execute(
                "SELECT mark FROM followed WHERE number = ? AND field = ?", (self._own, field)
            ).fetchone()
        return None if found is None else found[0]

    def set_mark(self, field: str, mark: int | None) -> None:
        """Remember how far a field was followed."""
        with telling(self._path), transaction(self._db):
            self._db.execute("UPDATE followed SET field = ?, mark = ? WHERE number = ?", (field, mark, self._own))

    def close(self) -> None:
        """Let go of the file; may be called again."""
        with suppress(sqlite3.Error):
            self._db.close()

    def _record(self, document: KnownDocument) -> Recorded:
        now = set(document.keys)
        found = self._db.execute(
            "SELECT number FROM followed_documents WHERE followed = ? AND id = ?", (self._own, document.id)
        ).fetchone()
        if found is None:
            row = (self._own, document.id, document.version)
            made = self._db.execute("INSERT INTO followed_documents (followed, id, version) VALUES (?, ?, ?)", row)
            known, before = made.lastrowid, set[bytes]()
        else:
            known = found[0]
            before = self._keys(known)
            self._db.execute("UPDATE followed_documents SET version = ? WHERE number = ?", (document.version, known))
        self._db.executemany("INSERT INTO followed_passages VALUES (?, ?)", [(known, key) for key in now - before])
        dropped = self._take(known, before - now)
        return Recorded(int(found is None), int(found is not None and before != now), dropped)

    def _keys(self, document: int) -> set[bytes]:
        found = self._db.execute("SELECT key FROM followed_passages WHERE document = ?", (document,))
        return {key for (key,) in found}

    def _take(self, document: int | None, keys: Iterable[bytes]) -> int:
        """Passages that a document no longer has; those that no other has either leave the disk."""
        dropped = 0
        for key in keys:
            self._db.execute("DELETE FROM followed_passages WHERE document = ? AND key = ?", (document, key))
            others = number(self._db, "SELECT EXISTS (SELECT 1 FROM followed_passages WHERE key = ?)", key)
            dropped += not others and drop_passage(self._db, key)
        return dropped


def forget_followed(path: Path) -> None:
    """Forget the documents of every index that is followed in a file; their passages stay.

    Raises:
        BackboneError: the file cannot be written.
    """
    with telling(path), closing(connect(path)) as db, transaction(db):
        for statement in (*_TABLES, "DELETE FROM followed_passages", "DELETE FROM followed_documents"):
            db.execute(statement)
