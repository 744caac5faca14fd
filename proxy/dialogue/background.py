"""Runs work in a thread while a stream ticks; the work can be abandoned."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

from ..errors import UpstreamTimeout
from ..runtime.cancel import Cancel
from .events import Tick

T = TypeVar("T")


def run_with_ticks(
    work: Callable[[Cancel], T], cancel: Cancel, seconds: float, interval: float
) -> Generator[Tick, None, T]:
    """Returns the result of `work`, and yields a Tick every `interval` seconds (0: none) until
    then. `work` receives a Cancel. It is cancelled, and no longer waited for, after `seconds` or if
    the request is cancelled.

    Raises the errors of `work`, UpstreamTimeout and Cancelled."""
    own = Cancel()
    done: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue()

    def run() -> None:
        try:
            done.put((work(own), None))
        except BaseException as error:
            done.put((None, error))

    def give_up() -> None:
        done.put((None, cancel.error()))  # before what the work returns when it is cancelled
        own.cancel()

    cancel.add(give_up)
    threading.Thread(target=run, name="aside", daemon=True).start()
    left = seconds
    try:
        while True:
            step = min(left, interval or left)
            try:
                value, error = done.get(timeout=step)
            except queue.Empty:
                left -= step
                if left <= 0:
                    raise UpstreamTimeout(f"timed out after {seconds:g} seconds") from None
                yield Tick()
                continue
            if error is not None:
                raise error
            return value  # type: ignore[return-value]  # without an error there is a value
    finally:
        cancel.remove(give_up)
        own.cancel()
