"""The budget of retries, and the pause before them."""

from __future__ import annotations

from proxy.gateway.admission import JITTER, RESERVE, SHARE, RetryBudget, retry_pause


def spent(budget: RetryBudget, under_way: int, now: float) -> int:
    """How many retries were left."""
    count = 0
    while budget.spend(under_way, now):
        count += 1
    return count


def test_each_request_under_way_may_be_tried_again_once() -> None:
    assert spent(RetryBudget(), under_way=500, now=1.0) == RESERVE + 500


def test_budget_grows_with_requests() -> None:
    budget = RetryBudget()
    spent(budget, under_way=0, now=1.0)
    assert not budget.spend(0, 1.0)
    for _ in range(round(3 / SHARE)):
        budget.spent -= SHARE
    assert spent(budget, under_way=0, now=1.0) in (2, 3, 4)


def test_reserve_fills_with_time_but_no_further() -> None:
    budget = RetryBudget()
    spent(budget, under_way=0, now=1.0)
    assert spent(budget, under_way=0, now=11.0) == 10
    assert spent(budget, under_way=0, now=1e6) == RESERVE
    for _ in range(10000):
        budget.spent -= SHARE
    assert spent(budget, under_way=0, now=1e6) == RESERVE


def test_pause_is_random_and_grows() -> None:
    for count in (1, 2, 3):
        pauses = [retry_pause(count) for _ in range(200)]
        assert 0 <= min(pauses) < max(pauses) <= JITTER * 2 ** (count - 1)
    assert retry_pause(10**6) <= JITTER * 8
