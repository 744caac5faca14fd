"""Native locks for short critical sections.

Under gevent, `threading.Lock` is written in Python, and twenty times as slow. If nothing in a
section can wait (no other lock, no I/O, no log line), greenlets of one thread never meet inside it,
and a native lock suffices.
"""

from __future__ import annotations

import _thread
import sys
import threading
from functools import cache
from importlib import import_module
from typing import Any


def native_lock() -> _thread.LockType:
    """A new native lock. Not for sections that may wait: the thread would deadlock with itself."""
    lock: _thread.LockType = native("_thread", "allocate_lock")()
    return lock


def native_rlock() -> threading.RLock:
    """A new reentrant native lock. Not for sections that may wait: all greenlets of a thread are
    one owner to this lock, so another of them could enter as well."""
    lock: threading.RLock = native("_thread", "RLock")()
    return lock


@cache
def native(module: str, name: str) -> Any:
    """The interpreter's own object, whatever gevent has replaced it with."""
    if "gevent.monkey" not in sys.modules:
        return getattr(import_module(module), name)
    from gevent.monkey import get_original

    return get_original(module, name)
