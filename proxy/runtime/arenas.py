"""Bounds the memory that native threads keep.

glibc's malloc gives each native thread an arena of its own, up to eight for each core. Memory that
is freed in one stays there for the threads that share it, so a process with many threads keeps
the most that each of them ever needed.
"""

from __future__ import annotations

import ctypes
import os
import sys

ARENAS = 2
M_ARENA_MAX = -8  # <malloc.h>


def bound_arenas() -> bool:
    """Let all threads of this process share `ARENAS` arenas. Returns whether they do: not where the
    environment has a number of its own (MALLOC_ARENA_MAX), or without glibc. Call it before threads
    start."""
    if sys.platform != "linux" or "MALLOC_ARENA_MAX" in os.environ:
        return False
    try:
        return bool(ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS))
    except (AttributeError, OSError):
        return False
