"""Keeps glibc from giving big buffers back to the kernel after every operation, in the program's own process.

Each layer of an LLM frees and takes again buffers of megabytes. By default glibc returns them to the kernel at once,
and every next use pays for fresh, zeroed pages. A library has no business with a process's allocator; a command has,
and its warm windows take a tenth to a fifth longer without: see docs/engineering/threads-and-memory.md.
"""

from __future__ import annotations

import ctypes
import logging
import sys

__all__ = ["keep_big_buffers"]

# From malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_KEPT_BYTES = 1 << 30
_PAD_BYTES = 1 << 26

logger = logging.getLogger(__name__)


def keep_big_buffers() -> bool:
    """Raise malloc's thresholds in this process; what the process frees is kept for its next use, up to 1 GB.

    Returns:
        Whether that could be done: only with glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        # musl has no mallopt.
        return False
    done = all(
        mallopt(parameter, value) == 1
        for parameter, value in (
            (_M_MMAP_THRESHOLD, _KEPT_BYTES),
            (_M_TRIM_THRESHOLD, _KEPT_BYTES),
            (_M_TOP_PAD, _PAD_BYTES),
            # Threads have heaps of 64 MB of their own, which go back to the kernel whenever they are empty.
            (_M_ARENA_MAX, 1),
        )
    )
    logger.debug("malloc keeps big buffers: %s", done)
    return done
