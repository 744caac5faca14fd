"""A prompt is counted exactly only if the difference to its upper bound may matter."""

from __future__ import annotations

import pytest

from proxy.accounts.limiting.allowance import LimitService, Reservation
from proxy.accounts.limiting.budgets import Price
from proxy.accounts.limiting.limiter import LocalLimiter
from proxy.accounts.limiting.plan import SMALL, Size
from proxy.accounts.limits import Budget, Limited, Limits, Window
from proxy.errors import BadRequest, LimitReached

BOUND, EXACT = Size(40, 5), Size(10, 5)
MINUTE = 60_000_000
PRICE = Price(prompt=1_000_000.0)  # a token costs 1


class Counting:
    """A service whose time stands still. `counted` is how often a prompt was counted."""

    def __init__(self, limits: Limits) -> None:
        self.limited = (Limited("key k", limits),)
        limiter = LocalLimiter(lambda: MINUTE)
        self.service = LimitService(limiter, prices=[PRICE], now=lambda: MINUTE)
        self.counted = 0
        self.remaining: list[int] = []

    def exact(self) -> Size:
        self.counted += 1
        return EXACT

    def admit(self) -> Reservation:
        allowance = self.service.allowance(self.limited)
        admission = allowance.admit(BOUND, "m", self.exact)
        self.remaining = [state.remaining for state in allowance.states]
        return admission


def tokens(most: int) -> Limits:
    return Limits(windows=(Window("tokens", "hour", most),))


def test_prompt_is_counted_before_it_is_refused() -> None:
    limiter = Counting(tokens(40 * SMALL))
    for _ in range(40 * SMALL // 45):
        limiter.admit()
    assert (limiter.counted, limiter.remaining) == (0, [40])
    limiter.admit()
    assert (limiter.counted, limiter.remaining) == (1, [25])


def test_prompt_is_not_counted_if_a_limit_of_requests_refuses_it() -> None:
    limiter = Counting(Limits(windows=(*tokens(10**6).windows, Window("requests", "hour", 1))))
    limiter.admit()
    with pytest.raises(LimitReached):
        limiter.admit()
    assert not limiter.counted


def test_prompt_that_may_be_too_large_is_counted() -> None:
    limiter = Counting(Limits(prompt=39))
    limiter.admit()
    assert limiter.counted == 1
    limiter = Counting(Limits(prompt=40))
    limiter.admit()
    assert not limiter.counted
    limiter = Counting(Limits(prompt=9))
    with pytest.raises(BadRequest):
        limiter.admit()


@pytest.mark.parametrize("unit", ["money", "tokens"])
def test_prompt_is_counted_if_it_is_a_large_part_of_a_budget(unit: str) -> None:
    for most, counted in ((40 * SMALL, 0), (40 * SMALL - 1, 1)):
        limiter = Counting(Limits(budgets=(Budget(unit=unit, most=most),)))  # type: ignore[arg-type]
        limiter.admit()
        assert limiter.counted == counted
