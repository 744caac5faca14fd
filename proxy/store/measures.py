"""What is counted of requests, so that it can be added up over workers and hours: histograms with
fixed buckets, and plain counts. Pure.

A bucket has the values that round to one of 24 steps of a power of ten, and stands for that step.
So a percentile is off by at most 5 %, and a histogram has at most MOST + 1 counts.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

# Counts by name and bucket. A plain count has the bucket 0; those of errors and of evictions are
# named ERROR and a code, EVICTION and a reason.
Counts = Counter[tuple[str, int]]

HISTOGRAMS = ("queue", "first_token", "speed", "prompt_tokens")
PLAIN = ("requests", "prompt", "cached", "completion")
ERROR, EVICTION = "error ", "eviction "

STEPS = 24  # of a power of ten
LEAST = 0.001  # a smaller value counts as none, in the bucket 0
MOST = 241  # the last bucket, of ten millions and more
BAR = 4  # buckets of a bar
PERCENTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99}


BORDERS = [math.nextafter(LEAST, 0)]
BORDERS += [*(LEAST * 10 ** ((bucket - 0.5) / STEPS) for bucket in range(1, MOST)), math.inf]


def tally(values: Iterable[float], borders: Sequence[float] = BORDERS) -> Iterator[tuple[int, int]]:
    """Each bucket that has values, and how many. A border, the last of which is infinite, is the
    highest value of its bucket. To sort them costs a third of finding the bucket of each."""
    ordered, begin = sorted(values), 0
    while begin < len(ordered):
        bucket = bisect_left(borders, ordered[begin])
        end = bisect_right(ordered, borders[bucket], begin)
        yield bucket, end - begin
        begin = end


def value_of(bucket: float) -> float:
    """The value that a bucket stands for, or with a half, the border between two."""
    return float(f"{LEAST * 10 ** ((bucket - 1) / STEPS):.4g}") if bucket else 0.0


def histogram(counts: Counts, name: str) -> dict[int, int]:
    return {bucket: count for (of, bucket), count in counts.items() if of == name and count}


def percentile(counts: Mapping[int, int], share: float) -> float | None:
    """The smallest value that at least this share of the values does not exceed."""
    buckets = sorted(counts)
    sums = list(accumulate(counts[bucket] for bucket in buckets))
    return value_of(buckets[bisect_left(sums, share * sums[-1])]) if sums else None


def summary(counts: Mapping[int, int]) -> dict[str, Any] | None:
    """The percentiles and bars (from, to, number) of a histogram; None if it is empty."""
    if not counts:
        return None
    bars: Counter[int] = Counter()
    for bucket, count in counts.items():
        bars[-(-bucket // BAR)] += count
    result: dict[str, Any] = {"count": sum(counts.values())}
    result |= {name: percentile(counts, share) for name, share in PERCENTILES.items()}
    borders = [value_of(max(0.0, bar * BAR + 0.5)) for bar in range(min(bars) - 1, max(bars) + 1)]
    result["bars"] = [
        (*pair, bars[bar]) for bar, pair in enumerate(pairwise(borders), start=min(bars))
    ]
    return result


def total(parts: Iterable[Counts]) -> dict[str, Any]:
    """The sums of counts as JSON: `first_token` and `queue` are in seconds, `speed` in tokens a
    second of one answer. The most frequent errors and evictions come first."""
    counts: Counts = Counter()
    for part in parts:
        counts.update(part)
    sums: dict[str, Any] = {name: counts[name, 0] for name in PLAIN}
    sums |= {name: summary(histogram(counts, name)) for name in HISTOGRAMS}
    for kinds, prefix in {"errors": ERROR, "evictions": EVICTION}.items():
        names = ((name, n) for (name, _), n in counts.most_common() if name.startswith(prefix))
        sums[kinds] = {name.removeprefix(prefix): n for name, n in names}
    return sums
