"""Files that are written whole or not at all."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["replacing"]


@contextmanager
def replacing(path: Path, ending: str = "") -> Iterator[Path]:
    """A file to write beside ``path``, in a folder that is made where there is none.

    At the end of the block it takes the place of ``path``, whoever else writes that. Where the block fails, what was
    there stays, and what was written goes: on a full disk it would take the room that is wanted.

    Args:
        path: the file.
        ending: of the name to write under, for libraries that go by it.

    Raises:
        OSError: the folder cannot be made, or the file not be put there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are for this user alone, and a cache may be filled by one user for another.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part{ending}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
