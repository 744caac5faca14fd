"""Retries writes while the database is unavailable, for results that are stored nowhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ..errors import StoreUnavailable

T = TypeVar("T")

PATIENCE = 600.0  # seconds until the result is given up
PAUSE = 1.0  # seconds between two attempts


def retry_while_unavailable(
    work: Callable[[], T],
    *,
    patience: float = PATIENCE,
    pause: float = PAUSE,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> T:
    """Call `work` until the database is available, and return its result. Raises the last
    StoreUnavailable after `patience` seconds, and any other exception immediately."""
    deadline = clock() + patience
    while True:
        try:
            return work()
        except StoreUnavailable:
            if clock() >= deadline:
                raise
        sleep(pause)
