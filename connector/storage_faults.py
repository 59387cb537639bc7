"""What a disk refuses, and what to do about it: full, read-only, not ours."""

from __future__ import annotations

import errno
import os
import re

__all__ = ["is_storage_fault", "os_error_of", "storage_mend"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}
_SQLITE = {"disk is full": errno.ENOSPC, "readonly database": errno.EROFS, "unable to open": errno.EACCES}
# How Rust writes an operating system's error: in a message, and where it shows its parts.
_NUMBER = re.compile(r"os error (\d+)|Os \{ code: (\d+)")


def os_error_of(error: BaseException) -> OSError | None:
    """The operating system's error behind an exception; None where there is none that its text shows.

    tantivy, safetensors, FAISS and SQLite raise types of their own, or a ValueError or RuntimeError.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error
    said = str(error)
    if found := _NUMBER.search(said):
        number = int(found[1] or found[2])
    else:
        words = {os.strerror(number): number for number in (*_FULL, *_REFUSED)} | _SQLITE
        number = next((number for text, number in words.items() if text in said), 0)
    return OSError(number, os.strerror(number)) if number else None


def is_storage_fault(error: OSError) -> bool:
    """Whether room or rights are missing: then nothing is damaged."""
    return error.errno in _FULL | _REFUSED


def storage_mend(error: OSError, otherwise: str) -> str:
    """What mends it.

    Args:
        error: of the operating system.
        otherwise: what helps instead, as in ``set cache.path to another folder``.
    """
    if error.errno in _FULL:
        return f"make room, or {otherwise}"
    if error.errno in _REFUSED:
        return f"give this user the right to write there, or {otherwise}"
    return otherwise
