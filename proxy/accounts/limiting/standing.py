"""How much of its limits and budgets a caller has used, without taking anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct

from ..limits import Budget, Limited, Window
from .allowance import LimitService
from .budgets import SCALES, budgets_of, meter_of
from .limiter import Taken
from .meters import TICKS, Charge, Meter, until_empty
from .plan import meter_of_window


class Standing(Struct, frozen=True):
    """A limit of the key, the team or the user (`level`): `used` of `most` of a `quantity` in a
    `period`, "" for ever. In `reset` seconds, nothing of it is used any more; None for never.
    `warns`: it is a budget that only warns. `model`: the name or pattern that it is for, "" for all
    models."""

    level: str
    quantity: str
    period: str
    most: float
    used: float
    reset: float | None
    is_budget: bool = False
    warns: bool = False
    model: str = ""


class _Bound(NamedTuple):
    subject: str
    limit: Window | Budget
    meter: Meter


def standings(service: LimitService, limits: Sequence[Limited], now: int) -> Sequence[Standing]:
    """The windows and budgets of all levels, in order, at the time `now` (microseconds since 1970).
    Raises LimitsUnavailable."""
    bounds = [bound for one in limits for bound in _bounds(one, now)]
    charges = [Charge(one.subject, one.meter, 0, 0, gives_back=False) for one in bounds]
    if not charges:
        return ()
    found = service.limiter.take(charges, ())
    if isinstance(found, Taken):
        service.limiter.settle(found, [0] * len(charges))
    return [
        _standing(bound, used, found.at) for bound, used in zip(bounds, found.levels, strict=True)
    ]


def _bounds(limited: Limited, now: int) -> list[_Bound]:
    return [
        *(_Bound(limited.subject, one, meter_of_window(one)) for one in limited.limits.windows),
        *(_Bound(limited.subject, one, meter_of(one, now)) for one in budgets_of(limited)),
    ]


def _standing(bound: _Bound, used: int, now: int) -> Standing:
    subject, limit, meter = bound
    level = subject.partition(" ")[0]
    reset = round(until_empty(meter, used, now), 1)
    if isinstance(limit, Window):
        whole = -(-used // TICKS)
        quantity, period = limit.quantity, limit.period
        return Standing(level, quantity, period, limit.most, whole, reset, model=limit.model)
    most = limit.soft if limit.most is None else limit.most
    return Standing(
        level,
        limit.unit,
        limit.period,
        most or 0.0,
        used / SCALES[limit.unit],
        reset if limit.period else None,
        is_budget=True,
        warns=limit.most is None,
    )
