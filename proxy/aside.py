"""Work that takes milliseconds, out of gevent's way.

SQLite knows nothing of greenlets: a query would hold up every stream of the process, and so would
cutting a document into terms. Where gevent has patched the process, such work is done in one of the
hub's native threads, and only its greenlet waits.
What runs there must use no locks of Python's: they are gevent's, and belong to the hub's thread.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def aside(work: Callable[[], T]) -> T:
    """What `work()` gives or raises."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        return work()
    import gevent

    return gevent.get_hub().threadpool.apply(work)
