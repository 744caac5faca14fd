"""Work that waits for an unavailable database."""

from __future__ import annotations

import pytest

from proxy.errors import NotFound, StoreUnavailable
from proxy.store.outage import retry_while_unavailable


def run(*errors: Exception, patience: float = 600.0) -> list[float]:
    """The times at which work was tried that fails with these errors first."""
    times: list[float] = []
    left = list(errors)
    now = 100.0

    def work() -> None:
        times.append(now)
        if left:
            raise left.pop(0)

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    retry_while_unavailable(work, patience=patience, pause=1.0, clock=lambda: now, sleep=sleep)
    return times


AWAY = StoreUnavailable("away")


def test_work_is_repeated_until_the_database_is_back() -> None:
    assert run(AWAY, AWAY) == [100.0, 101.0, 102.0]


def test_retries_end_with_the_last_error() -> None:
    with pytest.raises(StoreUnavailable, match="still away"):
        run(AWAY, AWAY, StoreUnavailable("still away"), StoreUnavailable("never"), patience=2.0)


def test_other_errors_are_raised_at_once() -> None:
    with pytest.raises(NotFound):
        run(AWAY, NotFound("deleted"), AWAY)
