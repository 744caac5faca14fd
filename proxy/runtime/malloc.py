"""Bounds the memory that glibc's malloc keeps after it was freed.

Arenas: each native thread gets one of its own, up to eight for each core. Memory that is freed in
one stays there for the threads that share it, so a process with many threads keeps the most that
each of them ever needed.

Large blocks: a rare upload of megabytes raises the size from which a block is mapped by itself, up
to 32 MB. Later large blocks come from the heap then, between small ones that stay, so the heap
keeps the most that all large bodies at once ever needed. A fixed size prevents that.
"""

from __future__ import annotations

import ctypes
import os
import sys

ARENAS = 2
MAPPED = 1 << 20  # bytes from which a block is mapped by itself: more than a prompt as a rule
TOP = 4 << 20  # free bytes at the end of the heap from which they are returned
PAD = 1 << 20  # bytes by which the heap grows at least

# The numbers of <malloc.h>, and the variables of the environment that come first.
_OPTIONS = (
    (-8, ARENAS, "MALLOC_ARENA_MAX"),
    (-3, MAPPED, "MALLOC_MMAP_THRESHOLD_"),
    (-1, TOP, "MALLOC_TRIM_THRESHOLD_"),
    (-2, PAD, "MALLOC_TOP_PAD_"),
)


def bound_malloc() -> bool:
    """Set these bounds for this process, but for those that the environment sets. Returns whether
    any was set: not without glibc. Call it before threads start."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    given = [option for option in _OPTIONS if option[2] not in os.environ]
    return any([bool(mallopt(number, value)) for number, value, _ in given])
