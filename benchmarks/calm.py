"""Measures how much of the machine's speed is available.

Neighbours of a virtual machine take its caches and up to half of a core, for seconds or hours,
visible only in the time that the same work takes. Python suffers more from that than nginx. Ratios
within a turn are valid nevertheless; costs and times only while the machine was undisturbed.
"""

from __future__ import annotations

import argparse
import inspect
import time

from .measure import pinned

SLOWER = 1.15  # multiple of the fastest time; slower means disturbed


class Calm:
    """Samples the speed of one core."""

    def __init__(self, core: int) -> None:
        self._core = core
        self._work = inspect.getsource(argparse)
        self._seconds: list[float] = []

    def look(self) -> None:
        """Run work like a gateway's: much code, many small objects."""
        with pinned(self._core):
            begun = time.process_time()
            compile(self._work, "work", "exec")
            self._seconds.append(time.process_time() - begun)

    @property
    def share(self) -> float:
        """Percentage of samples in which the core was undisturbed."""
        fast = [seconds for seconds in self._seconds if seconds < SLOWER * min(self._seconds)]
        return 100 * len(fast) / len(self._seconds)
