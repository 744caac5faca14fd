"""How much of the machine is ours.

The neighbours of a virtual machine take its caches and half of its core, for seconds or hours, and
nothing here shows it but the time that the same work takes. Python suffers more from that than
nginx does. Ratios within a turn hold for all that, costs and times only where the machine was ours.
"""

from __future__ import annotations

import argparse
import inspect
import time

from .measure import pinned

SLOWER = 1.15  # than the fastest: not ours alone


class Calm:
    """Looks at one core now and then."""

    def __init__(self, core: int) -> None:
        self._core = core
        self._work = inspect.getsource(argparse)
        self._took: list[float] = []

    def look(self) -> None:
        """Do a work that is like a gateway's: much code, many small objects."""
        with pinned(self._core):
            begun = time.process_time()
            compile(self._work, "work", "exec")
            self._took.append(time.process_time() - begun)

    @property
    def share(self) -> float:
        """Percent of the looks in which the core was as fast as it can be."""
        fast = [took for took in self._took if took < SLOWER * min(self._took)]
        return 100 * len(fast) / len(self._took)
