"""Work that waits for an unavailable database."""

from __future__ import annotations

import pytest

from proxy.errors import NotFound, StoreUnavailable
from proxy.store.outage import retry_while_unavailable


class Time:
    """A clock that advances only by sleeping."""

    def __init__(self) -> None:
        self.now = 100.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Work:
    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "stored"


def run(work: Work, time: Time, patience: float = 600.0) -> str:
    return retry_while_unavailable(
        work, patience=patience, pause=1.0, clock=time.clock, sleep=time.sleep
    )


def test_work_is_repeated_until_the_database_is_back() -> None:
    time, work = Time(), Work(*(StoreUnavailable("away") for _ in range(3)))
    assert run(work, time) == "stored"
    assert (work.calls, time.now) == (4, 103.0)


def test_retries_end_with_the_last_error() -> None:
    time, last = Time(), StoreUnavailable("still away")
    work = Work(*(StoreUnavailable("away") for _ in range(5)), last, StoreUnavailable("never"))
    with pytest.raises(StoreUnavailable) as told:
        run(work, time, patience=5.0)
    assert told.value is last
    assert (work.calls, time.now) == (6, 105.0)


def test_other_errors_are_raised_at_once() -> None:
    time, work = Time(), Work(StoreUnavailable("away"), NotFound("deleted"))
    with pytest.raises(NotFound):
        run(work, time)
    assert work.calls == 2
