"""SHA-256 of files, remembered by size and time of change: weights are too large to be read at each start."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from connector.whole_files import replacing

__all__ = ["changed_file", "file_hashes", "sha256_of", "write_json"]

# Path, size, times of change of its content and of anything about it: the latter moves also where the first is set.
_Key = tuple[str, int, int, int]
_known: dict[_Key, str] = {}


def sha256_of(path: Path) -> str:
    """SHA-256 of one file's content, in hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_hashes(paths: Iterable[Path], cache: Path | None = None, *, fresh: bool = False) -> dict[str, str]:
    """File name -> SHA-256 of its content.

    A file whose size and time of change are those of an earlier call is not read again, in this process, and,
    where ``cache`` is given, in later ones.

    Args:
        paths: files of one folder.
        cache: folder for what is remembered; nothing is ever written beside the files.
        fresh: read every file, whatever is remembered.

    Raises:
        OSError: a file cannot be read.
    """
    keys = {path: _key(path) for path in paths}
    folders = "\n".join(sorted({str(path.absolute().parent) for path in keys}))
    memory = cache / "digests" / f"{hashlib.sha256(folders.encode()).hexdigest()[:32]}.json" if cache else None
    remembered = _read(memory)
    hashes: dict[str, str] = {}
    for path, key in keys.items():
        value = None if fresh else _known.get(key) or remembered.get(key)
        if value is None:
            value = sha256_of(path)
        _known[key] = value
        hashes[path.name] = value
    if memory is not None and any(remembered.get(key) != _known[key] for key in keys.values()):
        try:
            current = {name for name, *_ in keys.values()}
            rows = {key: value for key, value in remembered.items() if key[0] not in current}
            rows |= {key: _known[key] for key in keys.values()}
            write_json(memory, [[*key, value] for key, value in rows.items()])
        except OSError:
            # A cache that can't be written costs time at the next start, nothing else.
            return hashes
    return hashes


def changed_file(expected: Mapping[Path, str], cache: Path | None = None, *, fresh: bool = False) -> Path | None:
    """The first file whose content has another SHA-256 than is expected; None: there is none.

    What is remembered is believed only where it agrees: it may be what is damaged, or of a file that was put back.

    Args:
        expected: SHA-256 of files of one folder.
        cache, fresh: see ``file_hashes``.

    Raises:
        OSError: a file cannot be read.
    """
    found = file_hashes(expected, cache, fresh=fresh)
    apart = [path for path, value in expected.items() if found[path.name] != value]
    if apart and not fresh:
        found = file_hashes(apart, cache, fresh=True)
    return next((path for path in apart if found[path.name] != expected[path]), None)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole or not at all, whoever else writes it.

    Raises:
        OSError: the folder cannot be written.
    """
    with replacing(path) as part:
        part.write_text(json.dumps(value, indent=1), encoding="utf-8")


def _key(path: Path) -> _Key:
    state = path.stat()
    return str(path.absolute()), state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _read(memory: Path | None) -> dict[_Key, str]:
    if memory is None:
        return {}
    try:
        rows = json.loads(memory.read_text(encoding="utf-8"))
        return {
            (str(name), int(size), int(content), int(moved)): str(digest)
            for name, size, content, moved, digest in rows
        }
    except (OSError, ValueError, TypeError):
        return {}
