"""Watches the event loop: logs which function blocks it.

One slow call stops every stream of the process. A native thread pings the loop; if the loop does
not answer within `LIMIT`, the thread looks at the stack of the loop's thread. Only names of
functions and files and line numbers are logged, no data. An idle process pays for a ping and its
answer twenty times a second.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import gevent
from gevent import get_hub, monkey

# The limit on open files: raised to what the system allows, and how much of it connections may
# use.
# Files other than client connections: model servers, databases, pipes, logs, modules.
FOR_OTHERS = 100
# The maximum number of connections. Each takes some 20 to 30 kB.
MOST_CONNECTIONS = 8192
# A hard limit may be "infinite", which some systems refuse as a soft one.
_MOST_FILES = 1 << 20


def raise_limit() -> int:
    """Raise the soft limit to the hard one. Returns the limit after that. Systems without one
    (Windows) have no relevant bound."""
    try:
        import resource
    except ImportError:
        return _MOST_FILES
    limit: Any = resource.RLIMIT_NOFILE
    soft, hard = resource.getrlimit(limit)
    for wanted in (hard, min(hard, _MOST_FILES), 10240):
        unlimited = wanted == resource.RLIM_INFINITY
        if not unlimited and soft != resource.RLIM_INFINITY and wanted > soft:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(limit, (wanted, hard))
                break
    soft = resource.getrlimit(limit)[0]
    return _MOST_FILES if soft == resource.RLIM_INFINITY else soft


def connections(files: int, wanted: int = MOST_CONNECTIONS) -> int:
    """The number of connections to allow with so many open files."""
    return max(16, min(wanted, files - FOR_OTHERS))


LIMIT = 0.1  # seconds that the loop may be blocked
EVERY = 10.0  # seconds between two log lines, at least
LONG = 1.0  # seconds from which it is logged even if the machine may only have been busy
STUCK = 5.0  # seconds after which the thread itself logs it, as the loop may never return
DEPTH = 8  # functions of a stack that are logged

log = logging.getLogger("slotproxy")


class LoopHold(NamedTuple):
    """How many seconds the loop was blocked, and by which functions, innermost first. `cpu` is the
    CPU time of its thread meanwhile. A low value means that the machine was busy otherwise, or that
    a system call waited, so only long ones are logged."""

    seconds: float
    cpu: float
    stack: str


class Watchdog:
    """Watches the loop of the thread that creates it."""

    def __init__(self, limit: float = LIMIT, every: float = EVERY) -> None:
        self._limit = limit
        self._every = every
        self._thread: int = monkey.get_original("_thread", "get_ident")()
        self._ping = get_hub().loop.async_()
        self._answered = 0.0  # when the loop last answered
        self._held: list[LoopHold] = []  # to be logged by the loop
        self._stopped = False
        self._told = float("-inf")
        self._untold = 0
        self._sleep: Any = monkey.get_original("time", "sleep")

    def start(self) -> None:
        self._ping.start(self._answer)
        start: Any = monkey.get_original("_thread", "start_new_thread")
        start(self._watch, ())

    def stop(self) -> None:
        self._stopped = True
        self._ping.stop()

    # in the loop's thread

    def _answer(self) -> None:
        self._answered = time.monotonic()
        while self._held:
            self._tell(self._held.pop(0))

    def _tell(self, hold: LoopHold) -> None:
        if hold.seconds < LONG and hold.cpu < hold.seconds / 2:
            return
        now = time.monotonic()
        if now - self._told < self._every:
            self._untold += 1
            return
        more = f"(and {self._untold} more times before)" if self._untold else ""
        self._told, self._untold = now, 0
        text = "the event loop was blocked for %.2f s (%.2f s CPU) by %s%s"
        gevent.spawn(log.warning, text, hold.seconds, hold.cpu, hold.stack, more)

    # in the watching thread, which does not log: the loop may hold a log handler's lock

    def _watch(self) -> None:
        failed = False
        while not self._stopped:
            try:
                self._look()
            except Exception:
                if not failed:
                    failed = True
                    os.write(
                        2, f"unhandled exception in the watchdog\n{traceback.format_exc()}".encode()
                    )
                self._sleep(self._limit)

    def _look(self) -> None:
        pinged, cpu = time.monotonic(), self._cpu()
        self._ping.send()
        self._sleep(self._limit / 2)
        if self._answered < pinged:
            self._sleep(self._limit / 2)
            if self._answered < pinged and (stack := self._stack()):
                self._wait(pinged, cpu, stack)

    def _wait(self, pinged: float, cpu: float, stack: str) -> None:
        stuck = False
        while self._answered < pinged and not self._stopped:
            self._sleep(self._limit / 10)
            if not stuck and time.monotonic() - pinged > STUCK:
                stuck = True
                os.write(
                    2, f"the event loop has been blocked for {STUCK:g} s by {stack}\n".encode()
                )
        self._held.append(LoopHold(self._answered - pinged, self._cpu() - cpu, stack))

    def _cpu(self) -> float:
        """CPU seconds of the loop's thread; 0 if the system does not report them."""
        if not hasattr(time, "pthread_getcpuclockid"):
            return 0.0
        return time.clock_gettime(time.pthread_getcpuclockid(self._thread))

    def _stack(self) -> str:
        """The stack of the loop's thread; "" if it waits for events and only the machine is
        busy."""
        frame: FrameType | None = sys._current_frames().get(self._thread)
        functions: list[str] = []
        while frame is not None and len(functions) < DEPTH:
            path = Path(frame.f_code.co_filename).parts[-3:]
            if not functions and path[-2:] == ("gevent", "hub.py"):
                return ""
            functions.append(f"{frame.f_code.co_name} ({'/'.join(path)}:{frame.f_lineno})")
            frame = frame.f_back
        return " < ".join(functions)
