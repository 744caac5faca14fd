"""History of the last hour: sums of finished requests in a ring of samples. A sample is created
when a request falls into it, so an idle gateway does no work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any, get_args

from msgspec import Struct, structs

from ...core.events import FinishReason
from ...errors import Cancelled, RequestCancelled
from ...gateway import Info

OTHER = "other"  # requests that match no route


class Finished(Struct, frozen=True, gc=False):
    """A finished request: the `second` at which it ended, and how many seconds it `took`."""

    second: float
    route: str
    status: int
    took: float
    info: Info
    asks_model: bool = True
    key: str = ""


STEP = 10  # seconds per sample
SAMPLES = 360
MOST_KINDS = 16  # distinct error codes per sample
WELL = frozenset(get_args(FinishReason)) | {"", "cancelled", Cancelled.code, RequestCancelled.code}


class Sample(Struct, kw_only=True):
    """Sums over the requests that ended within one step from `at`. `first_token` and `writing` are
    seconds, of `first_tokens` requests and `written` tokens."""

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
    """`clock` returns seconds, which are also the times of samples. Not thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ring: list[Sample | None] = [None] * SAMPLES

    def add(self, rows: Iterable[Finished]) -> None:
        """Add finished requests, in the order in which they ended."""
        for step, some in groupby(rows, lambda row: int(row.second) // STEP):
            place, at = step % SAMPLES, step * STEP
            sample = self._ring[place]
            if sample is None or sample.at != at:
                sample = self._ring[place] = Sample(at=at)
            for row in some:
                _add(sample, row)

    def samples(self, since: float = 0.0) -> list[Sample]:
        """The samples of the last hour in order, from the step of `since`; the last may still
        change."""
        oldest = max(self._clock() - STEP * SAMPLES, since - STEP)
        recent = [sample for sample in self._ring if sample is not None and sample.at > oldest]
        copies = (structs.replace(sample, errors=dict(sample.errors)) for sample in recent)
        return sorted(copies, key=lambda sample: sample.at)


def _add(sample: Sample, row: Finished) -> None:
    info, usage = row.info, row.info.usage
    sample.requests += 1
    sample.prompt += usage.prompt
    sample.cached += usage.cached
    sample.completion += usage.completion
    sample.first_token += info.first_token
    sample.first_tokens += info.first_token != 0.0
    if usage.completion > 1 and info.last_token > info.first_token:
        sample.written += usage.completion - 1
        sample.writing += info.last_token - info.first_token
    if row.status >= 400 or info.outcome not in WELL:
        code = info.outcome or str(row.status)
        if code not in sample.errors and len(sample.errors) >= MOST_KINDS:
            code = OTHER
        sample.errors[code] = sample.errors.get(code, 0) + 1


def total(samples: list[Sample]) -> dict[str, Any]:
    """Add up samples. `first_token` (seconds) and `speed` (tokens per second of one answer) are
    means, None if nothing was measured."""
    errors: Counter[str] = Counter()
    for sample in samples:
        errors.update(sample.errors)
    sums = {
        name: sum(getattr(sample, name) for sample in samples)
        for name in Sample.__struct_fields__
        if name != "errors"
    }
    first_tokens, writing = sums["first_tokens"], sums["writing"]
    return {
        "requests": sums["requests"],
        "prompt": sums["prompt"],
        "cached": sums["cached"],
        "completion": sums["completion"],
        "first_token": sums["first_token"] / first_tokens if first_tokens else None,
        "speed": sums["written"] / writing if writing else None,
        "errors": dict(errors.most_common()),
    }
