"""Requests that use idle slots only take from the limits of a key, but not from its places."""

from __future__ import annotations

import pytest

from proxy.accounts.limiting.allowance import Allowance, LimitService
from proxy.accounts.limiting.limiter import LocalLimiter
from proxy.accounts.limiting.plan import Size
from proxy.accounts.limits import Limited, Limits, Window
from proxy.errors import LimitReached

LIMITS = Limits(windows=(Window("requests", "minute", 2),), parallel=1, queued=1)


def allowance(service: LimitService, *, idle: bool) -> Allowance:
    return service.allowance((Limited("key k", LIMITS),), idle=idle)


def test_idle_requests_do_not_count_among_those_that_run_or_wait() -> None:
    service = LimitService(LocalLimiter())
    line = allowance(service, idle=True)
    line.admit(Size(), "m")
    other = allowance(service, idle=False)
    with line.queued(), other.queued():
        other.admit(Size(), "m")


def test_idle_request_beyond_a_window_is_refused() -> None:
    service = LimitService(LocalLimiter())
    for _ in range(2):
        allowance(service, idle=True).admit(Size(), "m")
    with pytest.raises(LimitReached) as refused:
        allowance(service, idle=True).admit(Size(), "m")
    assert refused.value.retry_after
