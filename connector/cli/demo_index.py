"""The demo's index: documentation of the running Python, made once for each Python."""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from connector.engines.embedded import EmbeddedEngine
from connector.engines.standard_library import standard_library_documents
from connector.errors import EngineError
from connector.storage_faults import storage_mend

__all__ = ["open_demo_index"]

_MARKER = "standard-library.json"
# Raised when the documents are made in another way.
_VERSION = 1


def open_demo_index(path: Path, announce: Callable[[str], None]) -> tuple[EmbeddedEngine, bool]:
    """The index in this folder, made anew if it is missing or of another Python, and whether it was there.

    It is made in a folder beside and moved there when it is complete: a demo that is stopped leaves no half index,
    and two that start at once do not meet.

    Args:
        path: folder of the index.
        announce: called with what is about to take a while.

    Raises:
        EngineError: the folder holds another index, or cannot be written.
        DataError: see ``standard_library_documents``.
    """
    wanted = {"version": _VERSION, "python": platform.python_version()}
    found = _marker(path)
    if found == wanted:
        try:
            engine = EmbeddedEngine(path)
            if engine.count():
                return engine, True
        except EngineError:
            # Of another version of the engine, or damaged; it holds nothing that cannot be made again.
            pass
    if found is None and path.exists():
        raise EngineError(
            f"{path} is there and was not made by the demo; give another name with: rh-connector demo --index NAME"
        )
    announce("indexing the documentation of Python's standard library")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=path.parent, prefix=f".{path.name}-", ignore_cleanup_errors=True
        ) as near:
            made = Path(near) / "index"
            engine = EmbeddedEngine(made)
            engine.index(standard_library_documents(), batch=10_000)
            engine.close()
            (made / _MARKER).write_text(json.dumps(wanted), encoding="utf-8")
            if found is not None:
                shutil.rmtree(path, ignore_errors=True)
            try:
                made.rename(path)
            except OSError:
                # Another demo may have been faster; what it made is as good.
                if _marker(path) != wanted:
                    raise
    except OSError as error:
        mend = storage_mend(error, "choose another folder with: rh-connector --set cache.path=FOLDER demo")
        raise EngineError(f"cannot make the demo's index in {path}: {error.strerror or error}; {mend}") from None
    return EmbeddedEngine(path), False


def _marker(path: Path) -> object:
    try:
        return json.loads((path / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
