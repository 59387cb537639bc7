"""Tables on disk: arrays and a record in one file, written at once or not at all."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import numpy.typing as npt

from connector.errors import DataError
from connector.storage_faults import storage_mend
from connector.whole_files import replacing

__all__ = ["Arrays", "keep_table", "load_table", "save_table"]

Arrays = Mapping[str, npt.NDArray[Any]]
T = TypeVar("T")


def save_table(path: Path, record: Mapping[str, Any], arrays: Arrays) -> None:
    """Write a table; a kill leaves the old file, or none.

    Raises:
        DataError: the folder cannot be written.
    """
    told = np.frombuffer(json.dumps(record).encode(), dtype=np.uint8)
    _write(path, lambda file: np.savez(file, allow_pickle=False, **arrays, record=told))


def keep_table(path: Path, data: bytes) -> None:
    """Write the bytes of a table that was saved elsewhere; a kill leaves the old file, or none.

    Raises:
        DataError: the folder cannot be written.
    """
    _write(path, lambda file: file.write(data))


def _write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    try:
        with replacing(path) as part, part.open("wb") as file:
            write(file)
    except OSError as error:
        mend = storage_mend(error, "set cache.path to another folder")
        raise DataError(f"cannot keep what was gathered in {path}: {error.strerror or error}; {mend}") from None


def load_table(path: Path, make: Callable[[dict[str, Any], Arrays], T | None]) -> T | None:
    """Read a table; None if there is none, or a damaged one.

    Args:
        path: the file.
        make: the table from its record and arrays, which are read when they are asked for; None: of another format.
    """
    try:
        # Opened here: numpy leaves the file open when it is not an archive.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return make(json.loads(file["record"].tobytes()), file)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
