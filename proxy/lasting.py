"""Threads that run as long as the process, whatever happens in them.

What such a thread does in one turn may fail in a way that nobody foresaw. A thread that ended by it
would be missed much later: clients that leave would not be noticed, a model would not be loaded
again. So the exception of a turn is logged, the same kind not again within ten minutes, and the
next turn comes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

PAUSE = 1.0  # seconds after a turn that failed
QUIET = 600.0  # seconds in which the same exception is not logged again

log = logging.getLogger("slotproxy")


def no_pause(seconds: float) -> None:
    """For turns that wait for something themselves."""


class Lasting:
    """Takes turns at something: `what` is its name in the log. `pause` waits some seconds after a
    turn that failed."""

    def __init__(self, what: str, pause: Callable[[float], object] = time.sleep) -> None:
        self._what = what
        self._pause = pause
        self._logged: dict[str, float] = {}

    def turn(self, work: Callable[[], object]) -> bool:
        """Do it once; whether that went well."""
        try:
            work()
        except Exception as error:
            now, kind = time.monotonic(), type(error).__name__
            if now - self._logged.get(kind, -QUIET) >= QUIET:
                self._logged[kind] = now
                log.exception("%s failed, and goes on", self._what)
            self._pause(PAUSE)
            return False
        return True
