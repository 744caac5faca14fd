"""Threads that run as long as the process, whatever fails in them: the exception of a turn is
logged, the same kind at most once in ten minutes, and the next turn follows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

PAUSE = 1.0  # seconds after a turn that failed
QUIET = 600.0  # seconds in which the same exception is not logged again

log = logging.getLogger("slotproxy")


def no_pause(seconds: float) -> None:
    """The pause for turns that wait themselves."""


class Lasting:
    """Runs turns of a task, which logs call `what`. `pause` waits some seconds after a failed
    turn."""

    def __init__(self, name: str, pause: Callable[[float], object] = time.sleep) -> None:
        self._what = name
        self._pause = pause
        self._logged: dict[str, float] = {}

    def turn(self, work: Callable[[], object]) -> bool:
        """Run one turn. Returns whether it succeeded."""
        try:
            work()
        except Exception as error:
            now, kind = time.monotonic(), type(error).__name__
            if now - self._logged.get(kind, -QUIET) >= QUIET:
                self._logged[kind] = now
                log.exception("%s failed; retrying", self._what)
            self._pause(PAUSE)
            return False
        return True
