"""The bounds between which `benchmarks.limits` expects what a limit accepts."""

from __future__ import annotations

import pytest

from benchmarks.limits import Reply, bounds

SHARP = 60  # a minute: one a second


def test_all_at_once_is_exactly_the_limit() -> None:
    replies = [Reply(100.0, 100.0, int(number < SHARP)) for number in range(80)]
    assert bounds(replies, SHARP) == (SHARP, SHARP)


def test_what_comes_back_between_the_first_and_the_last_request_is_allowed() -> None:
    replies = [Reply(100.0, 100.0, 1) for _ in range(SHARP)]
    replies += [Reply(105.5, 105.5, 1) for _ in range(5)] + [Reply(105.5, 105.5, 0)]
    assert bounds(replies, SHARP) == (SHARP + 5, SHARP + 5)


def test_time_on_the_way_widens_the_bounds() -> None:
    replies = [Reply(100.0, 103.0, 1) for _ in range(SHARP)] + [Reply(101.0, 101.1, 0)]
    assert bounds(replies, SHARP) == (SHARP, SHARP + 3)


@pytest.mark.parametrize("extra", [-1, 1])
def test_one_too_few_or_too_many_is_out_of_bounds(extra: int) -> None:
    accepted = SHARP + extra
    replies = [Reply(100.0, 100.0, int(number < accepted)) for number in range(80)]
    least, most = bounds(replies, SHARP)
    assert not least <= accepted <= most


def test_without_a_refusal_there_is_no_lower_bound() -> None:
    assert bounds([Reply(100.0, 100.0, 1)] * 3, SHARP) == (0, SHARP)


def test_nothing_comes_back_while_nothing_is_used() -> None:
    late = [Reply(200.0, 200.0, 1) for _ in range(SHARP)] + [Reply(200.0, 200.0, 0)]
    least, _ = bounds([Reply(100.0, 100.0, 1), *late], SHARP)
    assert least == SHARP


def test_tokens_may_stay_below_the_limit_by_less_than_a_request_needs() -> None:
    replies = [Reply(100.0, 100.0, 25), Reply(100.0, 100.0, 25), Reply(100.0, 100.0, 0)]
    assert bounds(replies, SHARP, need=25) == (36, SHARP)
