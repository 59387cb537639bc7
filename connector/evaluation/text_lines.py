"""Text files read by line, with the JSON in the lines, and written: errors name the file, and the line."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from connector.errors import DataError
from connector.json_kinds import json_kind
from connector.storage_faults import storage_mend
from connector.whole_files import replacing

__all__ = ["json_objects", "numbered_lines", "object_id", "object_text", "write_text"]


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line number (from 1) and text of every line that is not blank.

    Only a line feed ends a line: U+2028 and its kind are part of the text.

    Raises:
        DataError: the file cannot be read, or a line is not UTF-8.
    """
    try:
        with path.open("rb") as lines:
            for number, raw in enumerate(lines, 1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise DataError(f"{path}, line {number}: not UTF-8 ({error.reason}); save it as UTF-8") from None
                if line and not line.isspace():
                    yield number, line
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def json_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where it stands (for messages) and the JSON object of each line of a JSONL file.

    Raises:
        DataError: a line is not a JSON object, and whatever ``numbered_lines`` raises.
    """
    for number, line in numbered_lines(path):
        where = f"{path}, line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not JSON ({error}); give one JSON object a line") from None
        if not isinstance(value, dict):
            raise DataError(f"{where}: {json_kind(value)}; give one JSON object a line")
        yield where, value


def object_id(value: dict[str, Any], where: str) -> str:
    """The ``_id`` of a corpus or query line; numbers become text.

    Raises:
        DataError: it is missing, empty or neither text nor a whole number.
    """
    identity = value.get("_id")
    if isinstance(identity, bool) or not isinstance(identity, str | int) or identity == "":
        raise DataError(f"{where}: _id is {identity!r}; give each line an _id that is text")
    return str(identity)


def object_text(value: dict[str, Any], key: str, where: str) -> str:
    """The text under a key, empty where it is missing or null.

    Raises:
        DataError: it is not text.
    """
    text = value.get(key)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise DataError(f"{where}: {key} is {json_kind(text)}; give text")
    return text


def write_text(path: Path, parts: Iterable[str]) -> None:
    """Write a text, one part behind the other, in a folder that is made where there is none.

    A file that is there is replaced at once or not at all: one that a full disk cut would look like a whole one.

    Raises:
        DataError: the file cannot be written.
    """
    text = "".join(parts)
    try:
        # A device or a pipe is no file that could be replaced; what /dev names may be a file that others hold open.
        if Path("/dev") in path.absolute().parents or (path.exists() and not path.is_file()):
            _write(path, text)
        else:
            _replace(path.resolve(), text)
    except OSError as error:
        mend = storage_mend(error, "name another file")
        raise DataError(f"cannot write {path}: {error.strerror or error}; {mend}") from None


def _replace(path: Path, text: str) -> None:
    try:
        with replacing(path) as part:
            _write(part, text)
            if path.exists():
                shutil.copymode(path, part)
    except OSError as error:
        # One file of a folder that may not be written, or one that is mounted, as containers have them.
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EBUSY) or not path.exists():
            raise
        _write(path, text)


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
