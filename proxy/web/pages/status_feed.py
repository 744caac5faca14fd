"""What the status page is told: everything once, then what changed, a second at a time.

A stream ends after `LIFE` seconds and the browser asks again by itself, so that an open page holds
up no stopping server and a page that is gone holds no thread for long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from ...gateway import Caller
from .. import seen
from ..history import SAMPLES, STEP, total
from ..services import Services
from ..status import listed

PERIOD = 1.0  # seconds between two looks
LIFE = 15.0  # seconds of a stream


def now(here: Services, caller: Caller) -> dict[str, Any]:
    """What is so at this moment: backends, slots, queue, and the last minute and hour in numbers.

    Of other groups no more than that a slot is theirs; no text of a prompt."""
    view = seen.view(here, caller)
    samples = here.observer.samples()
    newest = time.time() - 60
    return {
        "at": time.time(),
        "started": here.started,
        "running": here.observer.running,
        "backends": listed(here, caller.key),
        "slots": msgspec.to_builtins(view.backends),
        "queue": msgspec.to_builtins(view.queue),
        "minute": msgspec.to_builtins(total([one for one in samples if one.at >= newest])),
        "hour": msgspec.to_builtins(total(samples)),
    }


def points(here: Services, since: float = 0.0) -> dict[str, Any]:
    """The samples of the last hour, or those since then, as columns for plots: seconds, requests a
    second, seconds to the first token, tokens a second of one answer."""
    samples = here.observer.samples(since)
    return {
        "step": STEP,
        "span": STEP * SAMPLES,
        "at": [one.at for one in samples],
        "requests": [round(one.requests / STEP, 3) for one in samples],
        "first_token": [_over(one.first_token, one.first_tokens) for one in samples],
        "speed": [_over(one.written, one.writing) for one in samples],
    }


def events(
    here: Services, caller: Caller, sleep: Callable[[float], None] = time.sleep
) -> Iterator[bytes]:
    """The stream of server-sent events: `points` of the hour, then `now` every second, with the
    points that are new."""
    yield b"retry: 500\n\n"
    yield _event("points", points(here))
    end = time.monotonic() + LIFE
    while True:
        yield _event("now", {**now(here, caller), "points": points(here, time.time() - STEP)})
        if time.monotonic() + PERIOD > end:
            return
        sleep(PERIOD)


def _event(name: str, data: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"


def _over(sum_: float, count: float) -> float | None:
    return round(sum_ / count, 4) if count else None
