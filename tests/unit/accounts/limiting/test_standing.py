"""How much of its limits a caller has used."""

from __future__ import annotations

from proxy.accounts.limiting.allowance import LimitService, limit_statuses
from proxy.accounts.limiting.limiter import MICROSECONDS, TICKS, Charge, LocalLimiter, Taken, window
from proxy.accounts.limits import Budget, Limited, Limits, Window

KEY = Limited("key k", Limits(windows=(Window("requests", "minute", 60),)))
TEAM = Limited("team t", Limits(windows=(Window("tokens", "day", 100),), parallel=1))


class Clock:
    now = 10**15

    def __call__(self) -> int:
        return self.now


def test_windows_of_all_levels_are_told_without_taking_anything() -> None:
    clock = Clock()
    service = LimitService(LocalLimiter(clock))
    units = 30 * TICKS
    charge = Charge("key k", window("requests/minute", 60, 60), units, units)
    assert isinstance(service.limiter.take([charge], ()), Taken)
    for _ in range(200):
        first, second = limit_statuses(service, [KEY, TEAM], clock.now)
    assert (first.level, first.quantity, first.period) == ("key", "requests", "minute")
    assert (first.used, first.most, first.reset) == (30, 60, 30.0)
    assert (second.level, second.used, second.most, second.reset) == ("team", 0, 100, 0.0)
    clock.now += 15 * MICROSECONDS
    assert limit_statuses(service, [KEY], clock.now)[0].used == 15


def test_budgets_are_told_in_their_unit() -> None:
    limits = Limits(
        budget=Budget(most=5.0, soft=4.0, period="month"),
        budgets=(Budget(unit="slot_seconds", soft=60.0), Budget(unit="tokens", most=9.0)),
    )
    spent = {"money": 6_000_000, "slot_seconds": 1_500_000, "tokens": 0}

    def known(charge: Charge) -> int:
        return spent[charge.meter.name.partition("/")[0]]

    service = LimitService(LocalLimiter(Clock(), known))
    money, slots, tokens = limit_statuses(service, [Limited("team t", limits)], Clock.now)
    assert (money.quantity, money.period, money.used, money.most) == ("money", "month", 6.0, 5.0)
    assert money.is_budget and not money.warns and money.reset
    assert (slots.used, slots.most, slots.warns, slots.reset) == (1.5, 60.0, True, None)
    assert (tokens.used, tokens.most, tokens.period) == (0.0, 9.0, "")
