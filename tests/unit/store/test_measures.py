"""Histograms with fixed buckets."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from proxy.store.measures import (
    HISTOGRAMS,
    LEAST,
    MOST,
    Counts,
    histogram,
    percentile,
    summary,
    tally,
    total,
    value_of,
)

values = st.lists(st.floats(LEAST, 9e6), min_size=1)


@given(values, st.sampled_from([0.5, 0.9, 0.99]))
def test_percentile_is_that_of_the_values_within_a_twentieth(
    some: list[float], share: float
) -> None:
    true = sorted(some)[math.ceil(share * len(some)) - 1]
    value = percentile(Counter(dict(tally(some))), share)
    assert value is not None
    assert abs(value - true) <= 0.05 * true


@given(values)
def test_bars_follow_one_another_and_have_every_value(some: list[float]) -> None:
    summed = summary(Counter(dict(tally(some))))
    assert summed is not None
    bars = summed["bars"]
    assert sum(count for _, _, count in bars) == summed["count"] == len(some)
    assert all(before[1] == after[0] for before, after in pairwise(bars))
    assert bars[0][2] and bars[-1][2]
    assert bars[0][0] <= min(some) * 1.001
    assert max(some) <= bars[-1][1] * 1.001


def test_tiny_values_count_as_none_and_huge_ones_share_a_bucket() -> None:
    assert [*tally([1e300, 0.0, LEAST, 1e299, LEAST / 2, 0.0])] == [(0, 3), (1, 1), (MOST, 2)]
    assert value_of(0) == 0.0
    tiny = summary({0: 3})
    assert tiny == {
        "count": 3,
        "p10": 0.0,
        "p50": 0.0,
        "p90": 0.0,
        "p99": 0.0,
        "bars": [(0.0, 0.0009532, 3)],
    }
    assert summary({}) is None
    assert percentile({}, 0.5) is None


def test_counts_of_several_workers_add_up() -> None:
    first: Counts = Counter({("requests", 0): 2, ("speed", 5): 1, ("error timeout", 0): 1})
    other: Counts = Counter({("requests", 0): 1, ("speed", 5): 2, ("eviction other_key", 0): 4})
    assert histogram(first, "speed") == {5: 1}
    sums = total([first, other])
    assert sums["speed"]["count"] == 3
    assert (sums["requests"], sums["errors"], sums["evictions"]) == (
        3,
        {"timeout": 1},
        {"other_key": 4},
    )
    assert [sums[name] is None for name in HISTOGRAMS] == [True, True, False, True]
