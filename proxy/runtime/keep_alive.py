"""Threads that run as long as the process, whatever fails in them: the exception of a turn is
logged, the same kind at most once in ten minutes, and the next turn follows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

PAUSE = 1.0  # seconds after a turn that failed
QUIET = 600.0  # seconds in which the same exception is not logged again

log = logging.getLogger("slotproxy")


class KeepAlive:
    """Runs turns of a task, which logs call `what`. `pause` waits some seconds after a failed
    turn; most turns wait themselves."""

    def __init__(self, name: str, pause: Callable[[float], object] = lambda _: None) -> None:
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


class WhileNeeded:
    """A thread that runs a turn every so many seconds, and ends once `needed` returns nothing."""

    def __init__(
        self, name: str, seconds: float, needed: Callable[[], object], turn: Callable[[], object]
    ) -> None:
        self._name, self._seconds = name, seconds
        self._needed, self._turn = needed, turn
        self._lock = threading.Lock()
        self.running = False

    def start(self) -> None:
        """Begin, unless the thread runs already. Call it when it has become needed."""
        with self._lock:
            if not self.running:
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
                self.running = True

    def _run(self) -> None:
        lasting = KeepAlive(self._name)
        while True:
            time.sleep(self._seconds)
            with self._lock:
                self.running = bool(self._needed())
                if not self.running:
                    return
            lasting.turn(self._turn)
