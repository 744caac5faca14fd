"""What the last hour was like: sums of finished requests, in a ring of samples.

A request costs a few additions when it is over, a token costs nothing. Samples are made when
something falls into them, so an idle gateway does no work at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, get_args

from msgspec import Struct, structs

from ..core.events import FinishReason
from ..errors import Cancelled
from ..locks import brief

if TYPE_CHECKING:
    from .observe import Record

STEP = 10  # seconds of a sample
SAMPLES = 360
MOST_KINDS = 16  # of errors told apart in a sample
WELL = frozenset(get_args(FinishReason)) | {"", "cancelled", Cancelled.code}


class Sample(Struct):
    """Sums over the requests that ended in one step. `at` is when the step began, in seconds of
    the clock; `first_token` and `writing` are seconds, over `first_tokens` requests and over
    `written` tokens. `errors` counts by code."""

    at: int
    requests: int = 0
    first_token: float = 0.0
    first_tokens: int = 0
    written: int = 0
    writing: float = 0.0
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    errors: dict[str, int] = {}


class History:
    """`clock` tells seconds; times of samples are of it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = brief()
        self._ring: list[Sample | None] = [None] * SAMPLES
        self._sample = Sample(-STEP)  # what was added to last
        self.running = 0

    def begin(self) -> None:
        with self._lock:
            self.running += 1

    def end(self, record: Record) -> None:
        """A request is over."""
        info = record.info
        usage = info.usage
        with self._lock:
            self.running -= 1
            sample = self._sample
            now = self._clock()
            if not sample.at <= now < sample.at + STEP:
                sample = self._sample = self._sample_at(now)
            sample.requests += 1
            sample.prompt += usage.prompt
            sample.cached += usage.cached
            sample.completion += usage.completion
            if info.first_token:
                sample.first_token += info.first_token
                sample.first_tokens += 1
            if usage.completion > 1 and info.last_token > info.first_token:
                sample.written += usage.completion - 1
                sample.writing += info.last_token - info.first_token
            if record.status >= 400 or info.outcome not in WELL:
                code = info.outcome or str(record.status)
                errors = sample.errors
                if code not in errors and len(errors) >= MOST_KINDS:
                    code = "other"
                errors[code] = errors.get(code, 0) + 1

    def samples(self, since: float = 0.0) -> list[Sample]:
        """Those of the last hour in their order, from the step on that `since` is in. The last one
        may still grow."""
        oldest = max(self._clock() - STEP * SAMPLES, since - STEP)
        with self._lock:
            kept = [one for one in self._ring if one is not None and one.at > oldest]
            return sorted((_copy(one) for one in kept), key=lambda one: one.at)

    def _sample_at(self, now: float) -> Sample:
        step = int(now) // STEP
        place, at = step % SAMPLES, step * STEP
        sample = self._ring[place]
        if sample is None or sample.at != at:
            sample = self._ring[place] = Sample(at)
        return sample


class Totals(Struct):
    """The sum of samples. Speeds and waits are means, None where nothing was measured."""

    requests: int
    prompt: int
    cached: int
    completion: int
    first_token: float | None
    speed: float | None
    errors: dict[str, int]


def total(samples: list[Sample]) -> Totals:
    """`first_token` in seconds, `speed` in tokens a second of one answer."""
    errors: Counter[str] = Counter()
    for sample in samples:
        errors.update(sample.errors)
    first_tokens = sum(one.first_tokens for one in samples)
    writing = sum(one.writing for one in samples)
    return Totals(
        sum(one.requests for one in samples),
        sum(one.prompt for one in samples),
        sum(one.cached for one in samples),
        sum(one.completion for one in samples),
        sum(one.first_token for one in samples) / first_tokens if first_tokens else None,
        sum(one.written for one in samples) / writing if writing else None,
        dict(errors.most_common()),
    )


def _copy(sample: Sample) -> Sample:
    return structs.replace(sample, errors=dict(sample.errors))
