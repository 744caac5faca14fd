"""A budget of work. A schema, a pattern or a grammar is a stranger's; a short one can take minutes.

Strategy: whatever a stranger's text can make long spends steps before or while it is done. A step
is about a microsecond, so that a budget of a million is about a second of CPU on any input. What is
made outside `limited` (constants at import, tests of one function) is free.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class TooMuchWork(Exception):
    """The budget is spent."""


_budget: ContextVar[list[int] | None] = ContextVar("steps left", default=None)


@contextmanager
def limited(steps: int) -> Iterator[None]:
    """Give what is done inside `steps` steps, or those that are left outside if they are fewer.
    Raises TooMuchWork where they are spent."""
    outer = _budget.get()
    given = steps if outer is None else min(steps, outer[0])
    mine = [given]
    token = _budget.set(mine)
    try:
        yield
    finally:
        _budget.reset(token)
        if outer is not None:
            outer[0] -= given - mine[0]


def spend(steps: int) -> None:
    """Take steps off the budget. Raises TooMuchWork when none are left."""
    budget = _budget.get()
    if budget is not None:
        budget[0] -= steps
        if budget[0] < 0:
            raise TooMuchWork
