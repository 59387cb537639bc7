"""Documents to try an index with, as the file that ``rh-connector index`` takes."""

from __future__ import annotations

import json
import platform
from pathlib import Path

from connector.engines.standard_library import standard_library_documents
from connector.errors import DataError
from connector.storage_faults import storage_mend
from connector.whole_files import replacing

__all__ = ["sample_file"]


def sample_file(folder: Path) -> Path:
    """A JSONL file of the documentation of Python's standard library; made once for each Python.

    A file, not a stream: an interrupted run goes on with it, and it shows what documents look like.

    Args:
        folder: where it goes.

    Raises:
        DataError: it cannot be written, or this Python comes without the sources of its library.
    """
    path = folder / f"python-{platform.python_version()}.jsonl"
    if path.is_file():
        return path
    try:
        with replacing(path) as part, part.open("w", encoding="utf-8") as file:
            for document in standard_library_documents():
                # ASCII: docstrings may hold lone surrogates.
                file.write(json.dumps({"_id": document.id, **document.fields}) + "\n")
    except OSError as error:
        raise DataError(
            f"cannot write the sample to {folder}: {error.strerror or error}; "
            f"{storage_mend(error, 'set cache.path to another folder')}"
        ) from None
    return path
