"""A budget of work for untrusted schemas, patterns and grammars: a short one can take minutes.

Code whose duration depends on untrusted input spends steps of about a microsecond each. Work
outside `limited` is free.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class TooMuchWork(Exception):
    """The budget is exceeded."""


_budget: ContextVar[list[int] | None] = ContextVar("steps left", default=None)


@contextmanager
def limited(steps: int) -> Iterator[None]:
    """Runs the body with a budget of `steps`, or with the rest of an enclosing budget if that is
    lower. Raises TooMuchWork if it is exceeded."""
    outer = _budget.get()
    allowance = steps if outer is None else min(steps, outer[0])
    budget = [allowance]
    token = _budget.set(budget)
    try:
        yield
    finally:
        _budget.reset(token)
        if outer is not None:
            outer[0] -= allowance - budget[0]


def spend(steps: int) -> None:
    """Takes steps off the budget. Raises TooMuchWork if it is exceeded."""
    budget = _budget.get()
    if budget is not None:
        budget[0] -= steps
        if budget[0] < 0:
            raise TooMuchWork
