"""Meters of a process, compared with exact arithmetic."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.accounts.limiting import limiter
from proxy.accounts.limiting.limiter import (
    ANY,
    TICKS,
    Charge,
    Gauge,
    Level,
    LocalLimiter,
    Meter,
    Refused,
    Taken,
    sunk,
    window,
)
from proxy.accounts.limiting.plan import meter_of_window
from proxy.accounts.limits import Window
from tests.thorough import share

MINUTE = 60_000_000  # microseconds
BEGIN = 1_700_000_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now = BEGIN

    def __call__(self) -> int:
        return self.now


def charge(
    meter: Meter, need: int, wish: int = 0, subject: str = "key k", least: int = ANY
) -> Charge:
    """In requests or tokens. It takes all of its wish, or `least` of it."""
    wish = max(need, wish)
    least = wish if least == ANY else least
    return Charge(subject, meter, need * TICKS, wish * TICKS, least=least * TICKS)


class Windows(RuleBasedStateMachine):
    """Requests and tokens of a key and its team, whose levels are also computed in fractions."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.limiter = LocalLimiter(self.clock)
        self.meters = [window("tokens/minute", 7, 60), window("tokens/hour", 50, 3600)]
        self.levels = [Fraction(0), Fraction(0)]
        self.seen = BEGIN
        self.running: list[Taken] = []
        self.used: list[tuple[int, int]] = []  # times and tokens

    def sink(self) -> None:
        for place, meter in enumerate(self.meters):
            ticks = self.clock.now // meter.tick - self.seen // meter.tick
            left = self.levels[place] - Fraction(ticks * meter.rate, TICKS)
            self.levels[place] = max(Fraction(0), left)
        self.seen = self.clock.now

    @rule(seconds=st.floats(0, 90))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += int(1_000_000 * seconds)
        self.sink()

    @rule(need=st.integers(0, 9), more=st.integers(0, 9), least=st.integers(0, 9))
    def take(self, need: int, more: int, least: int) -> None:
        charges = [charge(meter, need, need + more, least=least) for meter in self.meters]
        outcome = self.limiter.take(charges, ())
        lefts = [
            Fraction(meter.capacity, TICKS) - level
            for meter, level in zip(self.meters, self.levels, strict=True)
        ]
        if any(need > left for left in lefts):
            assert isinstance(outcome, Refused)
            if outcome.wait is not None and outcome.by.meter == self.meters[0]:
                self.check_wait(outcome, need)
            return
        assert isinstance(outcome, Taken)
        parts = [max(Fraction(need), Fraction(least), left / 2) for left in lefts]
        parts = [Fraction(int(part * TICKS), TICKS) for part in parts]
        amounts: list[Any] = [min(need + more, a, b) for a, b in zip(lefts, parts, strict=True)]
        assert [Fraction(amount, TICKS) for amount in outcome.amounts] == amounts
        self.levels = [a + b for a, b in zip(self.levels, amounts, strict=True)]
        self.running.append(outcome)

    def check_wait(self, refused: Refused, need: int) -> None:
        """After the time that was told, and not a tick before, the first meter has room."""
        assert refused.wait is not None
        at = self.clock.now + round(1_000_000 * refused.wait)
        level = Level(refused.levels[0], self.clock.now // self.meters[0].tick)
        room = self.meters[0].capacity - need * TICKS
        assert sunk(self.meters[0], level, at).used <= room
        assert sunk(self.meters[0], level, at - self.meters[0].tick).used > room

    @precondition(lambda self: self.running)
    @rule(place=st.integers(0, 99), used=st.integers(0, 12))
    def settle(self, place: int, used: int) -> None:
        taken = self.running.pop(place % len(self.running))
        self.limiter.settle(taken, [used * TICKS] * len(taken.charges))
        for number, amount in enumerate(taken.amounts):
            level = self.levels[number] + used - Fraction(amount, TICKS)
            self.levels[number] = max(Fraction(0), level)
        self.used.append((self.clock.now, used))

    @invariant()
    def levels_agree(self) -> None:
        taken = self.limiter.take([charge(meter, 0) for meter in self.meters], ())
        if any(level > meter.rate for level, meter in zip(self.levels, self.meters, strict=True)):
            return  # an answer was longer than what was left: even nothing is refused
        assert isinstance(taken, Taken)
        assert [Fraction(level, TICKS) for level in taken.levels] == self.levels


Windows.TestCase.settings = settings(max_examples=share(200), stateful_step_count=40, deadline=None)
test_windows_equal_exact_fractions = Windows.TestCase


def test_a_limit_that_is_set_while_requests_run_counts_them() -> None:
    local = LocalLimiter(Clock())
    running = local.take((), [Gauge("key k", "parallel", ANY)])
    assert isinstance(running, Taken)
    assert isinstance(local.take((), [Gauge("key k", "parallel", 1)]), Refused)


def test_a_clock_that_was_set_back_gives_nothing_back() -> None:
    clock = Clock()
    local, meter = LocalLimiter(clock), window("requests/minute", 1, 60)
    assert isinstance(local.take([charge(meter, 1)], ()), Taken)
    clock.now -= 10 * MINUTE
    assert isinstance(local.take([charge(meter, 1)], ()), Refused)


def test_budget_begins_with_what_was_spent_and_anew_with_each_epoch() -> None:
    spent: dict[int, int] = {1: 7, 2: 0}
    local = LocalLimiter(Clock(), lambda charge: spent[charge.meter.epoch])
    first = Meter("money/day", 10, 0, epoch=1, ends=BEGIN + 5_000_000)
    refused = local.take([Charge("key k", first, 4, 4)], ())
    assert isinstance(refused, Refused)
    assert (refused.wait, refused.levels) == (5.0, [7])
    running = local.take([Charge("key k", first, 3, 3)], ())
    assert isinstance(running, Taken)
    assert isinstance(local.take([Charge("key k", first._replace(epoch=2), 10, 10)], ()), Taken)
    local.settle(running, [0])  # of an epoch that is over
    refused = local.take([Charge("key k", first._replace(epoch=2), 1, 1)], ())
    assert isinstance(refused, Refused)


def test_meters_that_are_down_to_zero_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter, "MOST_LEVELS", 10)
    clock = Clock()
    local, meter = LocalLimiter(clock), window("requests/minute", 1, 60)
    local._most = 10
    for number in range(1000):
        local.take([charge(meter, 1, subject=f"key {number}")], ())
        clock.now += MINUTE // 5
    assert len(local._levels) <= 20


def test_names_of_meters_are_unique_and_safe_in_a_lease() -> None:
    windows = [Window("requests", "minute", 1, model) for model in ("", "a", "a=1,b|*", "a*")]
    names = [meter_of_window(window).name for window in windows]
    assert len(set(names)) == len(windows)
    assert all(re.fullmatch(r"[a-z0-9_/]+", name) for name in names)
