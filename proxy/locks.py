"""Locks for sections that are over at once.

Under gevent `threading.Lock` is a lock between greenlets, made in Python, and twenty times as dear
as the interpreter's own. Where nothing in a section can wait (no other lock, no input or output, no
log line), greenlets of one thread never meet inside, and the interpreter's own is enough: it keeps
real threads apart.
"""

from __future__ import annotations

import _thread
import sys
import threading
from functools import cache
from typing import Any


def brief() -> _thread.LockType:
    """A new one. Not for a section that may wait: the thread would wait for itself, for ever."""
    lock: _thread.LockType = _own("allocate_lock")()
    return lock


def brief_nested() -> threading.RLock:
    """A new one for sections that go into each other. Not for one that may wait: to this lock all
    greenlets of a thread are one, so another of them would come in as well."""
    lock: threading.RLock = _own("RLock")()
    return lock


@cache
def _own(name: str) -> Any:
    """The interpreter's own, whatever gevent has put in its place."""
    if "gevent.monkey" not in sys.modules:
        return getattr(_thread, name)
    from gevent.monkey import get_original

    return get_original("_thread", name)
