"""Counts the threads of an old server: it answers no more requests at once, whatever its slots.

A server of 2023 has as many threads as its machine has cores, less one, and at least eight. A
connection holds one of them, also for the five seconds in which it waits for a next request. So
connections are opened one after the other and kept, until one gets no answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from ..errors import GatewayError
from .http import ConnectionPool

LEAST = 8
WAIT = 1.0  # seconds for an answer, which takes a millisecond
KEPT = 4.0  # seconds in which the first connection certainly still holds its thread


def count_threads(connect: Callable[..., ConnectionPool], most: int) -> int:
    """The number of threads, `most` if there may be more. Other programs that use the server
    meanwhile make it too small."""
    end = time.monotonic() + KEPT
    with ExitStack() as stack:
        for count in range(most):
            pool = connect(idle=1)
            stack.callback(pool.close)
            try:
                pool.ask("GET", "/props", timeout=WAIT)
            except GatewayError:
                return max(LEAST, count)
            if time.monotonic() > end:
                break
    return most
