"""Vectors of an embedded index, in FAISS: which documents lie next to a query. All are compared, none is missed.

They lie in one file beside tantivy's. A vector's key is made of its document's id and text, and the document holds
its key. New vectors are written before the documents that hold their keys, and those of replaced documents go after.
So whatever a crash leaves, every document has its own vector, and one too many belongs to no document.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from connector.documents import Document, document_text
from connector.embedding.embedder import Embedder
from connector.engines.index_record import INDEX_AGAIN, cause_and_mend
from connector.errors import EngineError, MissingExtraError
from connector.whole_files import replacing

__all__ = ["VECTORS_FILE", "Vectors"]

VECTORS_FILE = "rh-vectors.faiss"
# Cosines of one text differ in the last digits with what it was embedded beside: equal texts shall be equal.
_DIGITS = 5
Floats = npt.NDArray[np.float32]


class Vectors:
    """The vectors of one index. One process may write at a time; any number may search.

    Args:
        folder: of the index.
        embedder: makes the vectors.
        fields: of the documents that are embedded; empty: all text fields.

    Raises:
        MissingExtraError: FAISS is not installed.
    """

    def __init__(self, folder: Path, embedder: Embedder, fields: Sequence[str] = ()) -> None:
        try:
            import faiss
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or "faiss", "vectors") from None
        self._faiss: Any = faiss
        self._path = folder / VECTORS_FILE
        self._embedder, self._fields = embedder, tuple(fields)
        self._index: Any = None
        self._stamp: tuple[int, ...] | None = None

    def record(self) -> dict[str, Any]:
        """What the index keeps of how its vectors are made."""
        return {
            "embedder": self._embedder.name,
            "digest": self._embedder.digest,
            "fields": sorted(self._fields),
        }

    def check(self, found: Mapping[str, Any] | None) -> None:
        """Were an index's vectors made as these are?

        Args:
            found: the ``record`` of that index; None: it has no vectors.

        Raises:
            EngineError: no; the message names the setting.
        """
        own, where = self.record(), self._path.parent
        mend = INDEX_AGAIN
        if found is None:
            raise EngineError(
                f"the index in {where} was made without vectors, and engine.embedder is {own['embedder']}; "
                f"leave it out, or {mend}"
            )
        if found["digest"] != own["digest"]:
            raise EngineError(
                f"the vectors of the index in {where} are of the embedding model {found['embedder']} "
                f"({found['digest'][:12]}), and engine.embedder is {own['embedder']} ({own['digest'][:12]}); "
                f"set it to the former, or {mend}"
            )
        if found["fields"] != own["fields"]:
            names = [", ".join(each["fields"]) or "all text" for each in (found, own)]
            raise EngineError(
                f"the vectors of the index in {where} are of the fields: {names[0]}; engine.fields says: {names[1]}; "
                f"name the former with any weights, or {mend}"
            )

    def check_count(self, documents: int) -> None:
        """Has every document its vector?

        Raises:
            EngineError: there are less vectors than documents.
        """
        if self.count() < documents:
            raise EngineError(
                f"{self._path} has {self.count()} vectors for {documents} documents; it is damaged; {INDEX_AGAIN}"
            )

    def key(self, document: Document) -> int:
        """From 0 below 2**63; the same for the same id and text."""
        said = json.dumps([document.id, self._text(document)])
        return int.from_bytes(hashlib.blake2b(said.encode(), digest_size=8).digest()) >> 1

    def count(self) -> int:
        """Number of vectors, those of no document included."""
        return 0 if self._index is None else int(self._index.ntotal)

    def add(self, documents: Mapping[int, Document]) -> None:
        """Embed the documents, by key, whose vectors are not there, and make them durable.

        Raises:
            EngineError: the file cannot be written.
        """
        there = self.keys()
        new = {key: document for key, document in documents.items() if key not in there}
        if not new:
            return
        made = self._embedder.documents([self._text(document) for document in new.values()])
        with self._failures("write"):
            if self._index is None:
                self._index = self._faiss.IndexIDMap2(self._faiss.IndexFlatIP(made.shape[1]))
            self._index.add_with_ids(made, np.fromiter(new, dtype=np.int64))
        self._write()

    def drop(self, keys: Collection[int]) -> None:
        """Take vectors out and make that durable.

        Raises:
            EngineError: the file cannot be written.
        """
        if self._index is None or not keys:
            return
        with self._failures("write"):
            self._index.remove_ids(np.fromiter(keys, dtype=np.int64))
        self._write()

    def keys(self) -> set[int]:
        """Those of all vectors."""
        return set() if self._index is None else set(self._faiss.vector_to_array(self._index.id_map).tolist())

    def refresh(self) -> None:
        """Take what another process has written since.

        Raises:
            EngineError: the file is damaged.
        """
        try:
            found = self._path.stat()
        except FileNotFoundError:
            self._index = self._stamp = None
            return
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        if stamp != self._stamp:
            with self._failures("read"):
                self._index = self._faiss.read_index(str(self._path))
            self._stamp = stamp

    def embed(self, query: str) -> Floats:
        """float32 [dimension]: what documents are compared to."""
        return self._embedder.query(query)

    def nearest(self, vector: Floats, size: int) -> list[tuple[float, int]]:
        """Cosine and key of the nearest vectors, nearest first.

        Raises:
            EngineError: the search failed.
        """
        if self._index is None:
            return []
        with self._failures("search"):
            cosines, keys = self._index.search(vector[None], min(size, self.count()))
        return [(round(float(cosine), _DIGITS), int(key)) for cosine, key in zip(cosines[0], keys[0], strict=True)]

    def cosine(self, vector: Floats, key: int) -> float | None:
        """None where the document's vector is gone: another process has replaced it this very moment."""
        try:
            return round(float(self._index.reconstruct(key) @ vector), _DIGITS)
        except (AttributeError, RuntimeError):
            return None

    def _text(self, document: Document) -> str:
        return document_text(document.fields, self._fields)

    def _write(self) -> None:
        try:
            with self._failures("write"):
                # FAISS itself only prints what a disk refuses when it closes the file.
                with replacing(self._path) as part, part.open("wb") as file:
                    self._faiss.write_index(self._index, self._faiss.PyCallbackIOWriter(file.write))
                    file.flush()
                    os.fsync(file.fileno())
                found = self._path.stat()
        except EngineError:
            # What is in memory alone must not pass for durable when the same documents come again.
            self._index = self._stamp = None
            raise
        self._stamp = (found.st_ino, found.st_mtime_ns, found.st_size)

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, AssertionError) as error:
            written = self._path.parent if what == "write" else None
            raise EngineError(f"cannot {what} {self._path}: {cause_and_mend(error, written)}") from None
