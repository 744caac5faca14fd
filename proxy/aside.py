"""Work that takes milliseconds, out of gevent's way.

SQLite knows nothing of greenlets: a query would hold up every stream of the process, and so would
cutting a document into terms. Where gevent has patched the process, such work is done in a native
thread, and only its greenlet waits. What runs there must wait for no lock of Python's that a
greenlet may hold: they are gevent's, and belong to the hub's thread.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from gevent.threadpool import ThreadPool

T = TypeVar("T")

SWITCH = 0.0005  # seconds
_marks: list[Any] = []  # thread-local, of the interpreter's own kind: what runs in a thread of ours


def aside(work: Callable[[], T], threads: Threads | None = None) -> T:
    """What `work()` gives or raises; done in one of `threads`, or of the hub's."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        return work()
    if not _marks:
        # The interpreter is the hub's again after this, where it would wait for five milliseconds.
        sys.setswitchinterval(SWITCH)
        _marks.append(monkey.get_original("_thread", "_local")())
    (mark,) = _marks
    if getattr(mark, "ours", False):
        return work()  # it is aside already

    def marked() -> tuple[T | None, BaseException | None]:
        """What it gave, and what it raised: gevent would print a traceback of that."""
        mark.ours = True
        try:
            return work(), None
        except BaseException as error:
            return None, error
        finally:
            mark.ours = False

    import gevent

    pool = gevent.get_hub().threadpool if threads is None else threads.pool()
    done: Any
    done, error = pool.apply(marked)
    if error is not None:
        raise error
    given: T = done
    return given


class Threads:
    """`most` native threads of one purpose, made when they are first needed, and anew after a
    fork."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._made: tuple[Any, ThreadPool] | None = None

    def pool(self) -> ThreadPool:
        import gevent
        from gevent.threadpool import ThreadPool

        hub = gevent.get_hub()
        if self._made is None or self._made[0] is not hub:
            self._made = hub, ThreadPool(self._most, hub=hub)
        return self._made[1]
