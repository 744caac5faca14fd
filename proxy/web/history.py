"""What the last hour was like: sums of finished requests, in a ring of samples.

A request costs a few additions some time after it is over, a token costs nothing. Samples are made
when something falls into them, so an idle gateway does no work at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import get_args

from msgspec import Struct, structs

from ..core.events import FinishReason
from ..errors import Cancelled
from .ended import Ended

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
    """`clock` tells seconds; times of samples are of it. For one thread at a time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ring: list[Sample | None] = [None] * SAMPLES

    def add(self, rows: Sequence[Ended]) -> None:
        """These requests are over, in their order."""
        for step, some in groupby(rows, _step_of):
            _add(self._sample_at(step), list(some))

    def samples(self, since: float = 0.0) -> list[Sample]:
        """Those of the last hour in their order, from the step on that `since` is in. The last one
        may still grow."""
        oldest = max(self._clock() - STEP * SAMPLES, since - STEP)
        kept = [one for one in self._ring if one is not None and one.at > oldest]
        return sorted((_copy(one) for one in kept), key=lambda one: one.at)

    def _sample_at(self, step: int) -> Sample:
        place, at = step % SAMPLES, step * STEP
        sample = self._ring[place]
        if sample is None or sample.at != at:
            sample = self._ring[place] = Sample(at)
        return sample


def _step_of(row: Ended) -> int:
    return row[0] // STEP


def _add(sample: Sample, rows: list[Ended]) -> None:
    _, _, _, statuses, outcomes, prompt, cached, written, _, first, last, *_ = zip(
        *rows, strict=True
    )
    sample.requests += len(rows)
    sample.prompt += sum(prompt)
    sample.cached += sum(cached)
    sample.completion += sum(written)
    sample.first_token += sum(first)
    sample.first_tokens += len(first) - first.count(0.0)
    for tokens, began, ended in zip(written, first, last, strict=True):
        if tokens > 1 and ended > began:
            sample.written += tokens - 1
            sample.writing += ended - began
    errors = sample.errors
    for (status, outcome), count in Counter(zip(statuses, outcomes, strict=True)).items():
        if status >= 400 or outcome not in WELL:
            code = outcome or str(status)
            if code not in errors and len(errors) >= MOST_KINDS:
                code = "other"
            errors[code] = errors.get(code, 0) + count


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
