"""Requests that use idle slots only take from the limits of a key after its other requests."""

from __future__ import annotations

import pytest

from proxy.accounts.limiting.allowance import Admission, Allowance, LimitService
from proxy.accounts.limiting.limiter import LocalLimiter
from proxy.accounts.limiting.lines import LimitTicket
from proxy.accounts.limiting.plan import Size
from proxy.accounts.limits import Limited, Limits, Window
from proxy.errors import LimitReached, NoIdleSlot
from proxy.runtime.cancel import Cancel

LIMITS = Limits(windows=(Window("requests", "minute", 2),), parallel=1, queued=1, on_limit="wait")


def admitted(allowance: Allowance) -> Admission:
    """What is taken without a wait."""
    admitting = allowance.admit(Size(), "m", Cancel())
    with pytest.raises(StopIteration) as end:
        next(admitting)
    found: Admission = end.value.value
    return found


def service() -> LimitService:
    return LimitService(LocalLimiter())


def allowance(limits: LimitService, *, idle: bool) -> Allowance:
    return limits.allowance((Limited("key k", LIMITS),), "k", idle=idle)


def test_idle_requests_do_not_count_among_those_that_run_or_wait() -> None:
    limits = service()
    line = allowance(limits, idle=True)
    admitted(line)
    other = allowance(limits, idle=False)
    with line.queued(), other.queued():
        admitted(other)


def test_idle_request_does_not_wait_for_a_window() -> None:
    limits = service()
    for _ in range(2):
        admitted(allowance(limits, idle=True))
    with pytest.raises(LimitReached) as refused:
        admitted(allowance(limits, idle=True))
    assert refused.value.retry_after and not limits.lines


def test_idle_request_gives_way_to_those_that_wait_for_the_limits() -> None:
    limits = service()
    limits.lines.join(LimitTicket("k", {}), ("key k", "requests/minute"))
    with pytest.raises(NoIdleSlot):
        admitted(allowance(limits, idle=True))
