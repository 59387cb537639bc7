"""Documents from JSONL files and BEIR folders: a line that is none is reported, the others are read."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import sys
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from connector.documents import Document, clean_text
from connector.errors import DataError
from connector.json_kinds import json_kind

__all__ = ["BadLine", "Source"]

_CORPUS = ("corpus.jsonl", "corpus.jsonl.gz")
_GZIP = b"\x1f\x8b"
_HEAD_BYTES = 65_536
_LONGEST_LINE = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that holds no document.

    Attributes:
        file: as it was given; ``standard input`` for that.
        line: from 1.
        reason: what is wrong with it.
    """

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}"


class Source:
    """The documents of one JSONL file: ``_id`` or ``id``, and every other key is a field. Gzip is unpacked.

    Args:
        name: a file, a folder with ``corpus.jsonl`` (BEIR), or ``-`` for standard input.
        fields: the only fields that are taken; empty: all.

    Raises:
        DataError: there is no such file, or no corpus in the folder.
    """

    def __init__(self, name: str, fields: Sequence[str] = ()) -> None:
        self._fields = tuple(fields)
        self._path = None if name == "-" else _file(Path(name))
        self._raw: BinaryIO | None = None
        self.name = "standard input" if self._path is None else str(self._path)

    @property
    def size(self) -> int | None:
        """Bytes of the file; None for standard input and other streams."""
        if self._path is None or not self._path.is_file():
            return None
        return self._path.stat().st_size

    def position(self) -> int:
        """Bytes of the file that are read so far; never more than ``size``."""
        return 0 if self._raw is None or self._raw.closed or not self._raw.seekable() else self._raw.tell()

    def identity(self) -> dict[str, Any] | None:
        """What tells this source from a changed or another one; None where it cannot be read twice."""
        if self._path is None or not self._path.is_file():
            return None
        with _readable(self.name), self._path.open("rb") as file:
            status = os.fstat(file.fileno())
            head = hashlib.sha256(file.read(_HEAD_BYTES)).hexdigest()
        return {
            "path": str(self._path.resolve()),
            "bytes": status.st_size,
            "modified": status.st_mtime_ns,
            "head": head,
            "fields": list(self._fields),
        }

    def documents(self, bad: Callable[[BadLine], None], after: int = 0) -> Iterator[tuple[int, Document]]:
        """Line number (from 1) and document of each line, in the order of the file; blank lines are passed over.

        Args:
            bad: called with each line that holds no document; it may raise to stop.
            after: lines up to this one are not looked at.

        Raises:
            DataError: the file cannot be read, or its gzip is damaged.
        """
        for number, raw in self._lines():
            if number <= after:
                continue
            try:
                if len(raw) > _LONGEST_LINE:
                    raise _NoDocumentError(f"longer than {_LONGEST_LINE // 1024 // 1024} MB")
                document = self._document(raw, number)
            except _NoDocumentError as error:
                bad(BadLine(self.name, number, str(error)))
                continue
            if document is not None:
                yield number, document

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        with self._opened() as stream:
            number = 0
            while True:
                with _readable(self.name):
                    line = stream.readline(_LONGEST_LINE + 1)
                    tail = line
                    # The rest of a line that is too long is read, not kept.
                    while len(tail) > _LONGEST_LINE and not tail.endswith(b"\n"):
                        tail = stream.readline(_LONGEST_LINE + 1)
                if not line:
                    return
                number += 1
                yield number, line

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        if self._path is None:
            # Wrapped to look ahead; detached, so that standard input is not closed with the wrapper.
            wrapped = io.BufferedReader(cast(io.RawIOBase, sys.stdin.buffer))
            try:
                yield _unpacked(wrapped)
            finally:
                wrapped.detach()
            return
        with _readable(self.name):
            raw = self._path.open("rb")
        with raw:
            self._raw = raw
            with _readable(self.name):
                stream = _unpacked(raw)
            yield stream

    def _document(self, raw: bytes, number: int) -> Document | None:
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise _NoDocumentError(f"not UTF-8 ({error.reason})") from None
        if not line or line.isspace():
            return None
        try:
            value = json.loads(line, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise _NoDocumentError(f"not JSON ({error})") from None
        if not isinstance(value, dict):
            raise _NoDocumentError(f"{json_kind(value)}; give one object a line")
        key = "_id" if "_id" in value else "id"
        identity = _identity(value, key)
        fields = {name: inner for name, inner in value.items() if name != key}
        if self._fields:
            fields = {name: fields[name] for name in self._fields if name in fields}
        if not fields:
            what = f"none of the fields {', '.join(self._fields)}" if self._fields else "nothing but its id"
            raise _NoDocumentError(f"document {identity} has {what}")
        return Document(identity, fields)


class _NoDocumentError(Exception):
    pass


def _file(path: Path) -> Path:
    if path.is_dir():
        for name in _CORPUS:
            if (path / name).is_file():
                return path / name
        raise DataError(f"{path} has no corpus.jsonl; give a JSONL file, or a folder as BEIR lays it out")
    if not path.exists():
        raise DataError(f"there is no {path}; give a JSONL file, a folder with corpus.jsonl, or - for standard input")
    return path


def _unpacked(stream: Any) -> BinaryIO:
    # ``stream`` is an io.BufferedReader: what it peeks at is still read.
    return cast(BinaryIO, gzip.GzipFile(fileobj=stream) if stream.peek(2)[:2] == _GZIP else stream)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{name} is damaged gzip ({error}); fetch or pack it again") from None
    except OSError as error:
        raise DataError(f"cannot read {name}: {error.strerror or error}") from None


def _identity(value: dict[str, Any], key: str) -> str:
    identity = value.get(key)
    if identity is None:
        raise _NoDocumentError("no _id; give each document an _id that is text")
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        raise _NoDocumentError(f"{key} is {json_kind(identity)}; give text")
    try:
        text = str(identity)
    except ValueError:
        raise _NoDocumentError(f"{key} is a number of thousands of digits; give text") from None
    if not text.strip():
        raise _NoDocumentError(f"{key} is empty; give each document an {key} of its own")
    if any(unicodedata.category(char) == "Cc" for char in text) or clean_text(text) != text:
        raise _NoDocumentError(f"{key} {text!r} holds characters that no id can have")
    return text


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
