"""What a command sets for the process that is its own: how glibc keeps memory, how threads wait for each other.

A library has no business with either. See docs/engineering/threads-and-memory.md.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys

__all__ = ["keep_big_buffers", "wait_briefly"]

# From malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_KEPT_BYTES = 1 << 30
_PAD_BYTES = 1 << 26
# Turns of a loop, some ten to some hundred microseconds: that depends on the processor.
_TURNS = 5_000

logger = logging.getLogger(__name__)


def keep_big_buffers() -> bool:
    """Raise malloc's thresholds in this process; what the process frees is kept for its next use, up to 1 GB.

    Each layer of an LLM frees and takes again buffers of megabytes. By default glibc returns them to the kernel at
    once, and every next use pays for fresh, zeroed pages: warm windows take a tenth to a fifth longer.

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


def wait_briefly() -> bool:
    """Let OpenMP's threads (libgomp) wait for each other in a loop for no longer than a short operation takes.

    By default they turn for milliseconds. Where another process uses a core too, the others turn until that one has
    had its time, at every one of some hundred operations: a window takes many times as long.

    Returns:
        Whether that could be done: not where the environment says how threads wait, nor once torch is loaded, nor on
        platforms whose torch has another OpenMP.
    """
    said = "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ
    done = sys.platform.startswith("linux") and "torch" not in sys.modules and not said
    if done:
        os.environ["GOMP_SPINCOUNT"] = str(_TURNS)
    logger.debug("threads wait briefly: %s", done)
    return done
