"""Watches the event loop: whatever holds it up is logged, with the function that does.

One slow call stops every stream of the process. A native thread pings the loop; where the loop does
not answer within `LIMIT`, the thread looks at what the loop's thread is doing. Only names of
functions and files and numbers of lines are logged, no data. An idle process pays for a ping and
its answer twenty times a second.
"""

from __future__ import annotations

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

LIMIT = 0.1  # seconds that the loop may be held
EVERY = 10.0  # seconds between two lines at least
LONG = 1.0  # seconds after which it is told even if the machine may only have been busy
STUCK = 5.0  # seconds after which the thread itself tells, as the loop may never come back
DEPTH = 8  # functions of a stack that are logged

log = logging.getLogger("slotproxy")


class Hold(NamedTuple):
    """For how many seconds the loop was held, and by which functions, the innermost first. `cpu` is
    what its thread used meanwhile. Little of it means that the machine was busy with something
    else, or that a call waited in the system, which is told of long ones alone."""

    seconds: float
    cpu: float
    stack: str


class Watchdog:
    """Of the loop of the thread that makes it."""

    def __init__(self, limit: float = LIMIT, every: float = EVERY) -> None:
        self._limit = limit
        self._every = every
        self._thread: int = monkey.get_original("_thread", "get_ident")()
        self._ping = get_hub().loop.async_()
        self._answered = 0.0  # when the loop last answered
        self._held: list[Hold] = []  # what the loop is to log
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

    # in the loop

    def _answer(self) -> None:
        self._answered = time.monotonic()
        while self._held:
            self._tell(self._held.pop(0))

    def _tell(self, hold: Hold) -> None:
        if hold.seconds < LONG and hold.cpu < hold.seconds / 2:
            return
        now = time.monotonic()
        if now - self._told < self._every:
            self._untold += 1
            return
        more = f", and {self._untold} more times before" if self._untold else ""
        self._told, self._untold = now, 0
        text = "the event loop was held for %.2f s (%.2f s of CPU) by %s%s"
        gevent.spawn(log.warning, text, hold.seconds, hold.cpu, hold.stack, more)

    # in the thread, which logs nothing: the loop may hold the lock of a log

    def _watch(self) -> None:
        failed = False
        while not self._stopped:
            try:
                self._look()
            except Exception:
                if not failed:
                    failed = True
                    os.write(2, f"a defect in the watchdog\n{traceback.format_exc()}".encode())
                self._sleep(self._limit)

    def _look(self) -> None:
        asked, cpu = time.monotonic(), self._cpu()
        self._ping.send()
        self._sleep(self._limit / 2)
        if self._answered < asked:
            self._sleep(self._limit / 2)
            if self._answered < asked and (stack := self._stack()):
                self._wait(asked, cpu, stack)

    def _wait(self, asked: float, cpu: float, stack: str) -> None:
        stuck = False
        while self._answered < asked and not self._stopped:
            self._sleep(self._limit / 10)
            if not stuck and time.monotonic() - asked > STUCK:
                stuck = True
                os.write(2, f"the event loop is held since {STUCK:g} s by {stack}\n".encode())
        self._held.append(Hold(self._answered - asked, self._cpu() - cpu, stack))

    def _cpu(self) -> float:
        """Seconds of CPU that the loop's thread has used; 0 where the system does not tell."""
        if not hasattr(time, "pthread_getcpuclockid"):
            return 0.0
        return time.clock_gettime(time.pthread_getcpuclockid(self._thread))

    def _stack(self) -> str:
        """What the loop's thread is doing; "" where it waits for events, and the machine is busy
        with something else."""
        frame: FrameType | None = sys._current_frames().get(self._thread)
        found: list[str] = []
        while frame is not None and len(found) < DEPTH:
            path = Path(frame.f_code.co_filename).parts[-3:]
            if not found and path[-2:] == ("gevent", "hub.py"):
                return ""
            found.append(f"{frame.f_code.co_name} ({'/'.join(path)}:{frame.f_lineno})")
            frame = frame.f_back
        return " < ".join(found)
