"""Runs blocking calls, such as those of SQLite, in a native thread when gevent is active.

Only the greenlet waits then. The work must not wait for a Python lock that a greenlet may hold:
these are gevent's, and belong to the hub's thread.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from gevent.threadpool import ThreadPool

T = TypeVar("T")

SWITCH = 0.0005  # seconds
_marks: list[Any] = []  # a native thread-local that marks our own threads


def run_in_native_thread(work: Callable[[], T], threads: NativeThreads | None = None) -> T:
    """Run `work()` in one of `threads`, or in the hub's pool, and return its result. Raises its
    exception."""
    mark = _thread_mark()
    if mark is None or getattr(mark, "ours", False):
        return work()  # there is no event loop, or this is a native thread already

    def marked() -> tuple[T | None, BaseException | None]:
        """Return the result and the exception, because gevent would print a traceback of it."""
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
        try:
            raise error
        finally:
            del error  # whose traceback has this frame: a reference cycle
    result: T = done
    return result


def give_way() -> None:
    """Let the event loop attend to all connections, between pieces of long work.

    With `time.sleep(0)` it does not: gevent first runs up to fifty greenlets that are ready, and so
    a single one fifty times. A watcher of a high priority wakes at the next look, before what that
    look found is handled; so it takes two.
    """
    mark = _thread_mark()
    if mark is None or getattr(mark, "ours", False):
        time.sleep(0)  # there is no loop here: other threads run
        return

    import gevent

    gevent.idle(1)
    gevent.idle(1)


def _thread_mark() -> Any:
    """The native thread-local that marks our own threads, or None without gevent."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        return None
    if not _marks:
        # Hands the interpreter back to the hub after this time, instead of five milliseconds.
        sys.setswitchinterval(SWITCH)
        _marks.append(monkey.get_original("_thread", "_local")())
    return _marks[0]


class NativeThreads:
    """A pool of at most `most` native threads for one purpose, created on first use, and again
    after a fork."""

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
