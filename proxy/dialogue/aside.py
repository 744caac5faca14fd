"""Work beside a stream: it runs in a thread, while the stream ticks, and can be given up."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

from ..cancel import Cancel
from ..errors import Cancelled, UpstreamTimeout
from .values import Tick

T = TypeVar("T")


def aside(
    work: Callable[[Cancel], T], cancel: Cancel, seconds: float, interval: float
) -> Generator[Tick, None, T]:
    """What `work` gives; a Tick each `interval` (0: none) until then. Where it takes longer than
    `seconds`, or nobody waits any more, the Cancel it got is cancelled, and it is not waited for.

    Raises what it raises, UpstreamTimeout, Cancelled."""
    own = Cancel()
    done: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue()

    def run() -> None:
        try:
            done.put((work(own), None))
        except BaseException as error:
            done.put((None, error))

    def give_up() -> None:
        own.cancel()
        done.put((None, Cancelled("nobody waits for it any more")))

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
                    raise UpstreamTimeout(f"it took longer than {seconds:g} seconds") from None
                yield Tick()
                continue
            if error is not None:
                raise error
            return value  # type: ignore[return-value]  # there is one where there is no error
    finally:
        cancel.remove(give_up)
        own.cancel()
