"""A lock for sections that are over at once.

Under gevent `threading.Lock` is a lock between greenlets, made in Python, and twenty times as dear
as the interpreter's own. Where nothing in a section can wait (no other lock, no input or output, no
log line), greenlets of one thread never meet inside, and the interpreter's own is enough: it keeps
real threads apart.
"""

from __future__ import annotations

import _thread
import sys
from collections.abc import Callable
from functools import cache


def brief() -> _thread.LockType:
    """A new one. Not for a section that may wait: the thread would wait for itself, for ever."""
    return _own()()


@cache
def _own() -> Callable[[], _thread.LockType]:
    if "gevent.monkey" not in sys.modules:
        return _thread.allocate_lock
    from gevent.monkey import get_original

    own: Callable[[], _thread.LockType] = get_original("_thread", "allocate_lock")
    return own
