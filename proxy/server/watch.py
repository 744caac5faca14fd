"""Watches the settings file and the folder of models, with --watch-config.

Looks at their times instead of asking the system for events, which network folders and containers
do not deliver.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from proxy.runtime.lasting import Lasting, no_pause

INTERVAL = 1.0  # seconds between two looks

Mark = tuple[int, int, int]


class Watched:
    """Files and folders. `paths` that are empty are left out."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = [os.path.expanduser(path) for path in paths if path]
        self._known = self._marks()
        self._last = self._known

    def changed(self) -> bool:
        """Whether they have changed since the last True, and not any more since the last call: an
        editor may need several steps, and remove a file for a moment."""
        now = self._marks()
        settled, self._last = now == self._last, now
        if now == self._known or not settled or None in now:
            return False
        self._known = now
        return True

    def _marks(self) -> list[Mark | None]:
        return [_mark(path) for path in self._paths]


def _mark(path: str) -> Mark | None:
    """What changes with a file; None if it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def watch(
    watched: Watched, changed: Callable[[], None], sleep: Callable[[float], None] | None = None
) -> None:
    """Call `changed` after each change, forever. `time.sleep` is looked up now: this module is
    imported before gevent replaces it, and the original would stop the event loop."""
    sleep = sleep or time.sleep
    looks = Lasting("watching the settings file", no_pause)

    def look() -> None:
        if watched.changed():
            changed()

    while True:
        sleep(INTERVAL)
        looks.turn(look)
