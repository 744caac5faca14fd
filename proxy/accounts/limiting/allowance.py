"""The allowance of a request: admits what it takes from the limits of its key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial

from msgspec import Struct
from msgspec.structs import replace

from ...errors import GatewayError
from ...runtime.locks import native_lock
from ..limits import Budget, Limited, Quantity, Window
from .budgets import FREE, SCALES, Alert, Price, Used, budgets_of, meter_of, plain, price_of, units
from .limiter import TICKS, Charge, LocalLimiter, Meter, Refused, Taken, clock, until_empty
from .plan import BudgetOf, Plan, Pricing, Size, bounded, cost_text, meter_of_window, refusal
from .shared import SharedLimiter

MOST_ALERTS = 10_000  # that are remembered, so as not to be repeated
NOTHING = Used()
Limiter = LocalLimiter | SharedLimiter  # raises LimitsUnavailable if it cannot tell
ALL_MODELS = ("",)  # the model of windows that are for all
plan_of = lru_cache(maxsize=4096)(Plan)


class State(Struct, frozen=True, gc=False):
    """What is left of a window: the limit, the rest of it, and seconds until all of it is back."""

    quantity: Quantity
    limit: int
    remaining: int
    reset: float


class LimitService:
    """Makes allowances. Of `prices`, the first that fits counts. `alert` is called once for each
    limit of a budget in each of its periods; it must not wait."""

    def __init__(
        self,
        limiter: Limiter,
        *,
        prices: Sequence[Price] = (),
        alert: Callable[[Alert], None] = lambda alert: None,
        now: Callable[[], int] = clock,
    ) -> None:
        self.limiter = limiter
        self._price = lru_cache(maxsize=1024)(partial(price_of, prices))
        self._alert = alert
        self._alerted: dict[tuple[str, str, int, bool], None] = {}
        self._alerting = native_lock()
        self._now = now
        self._unpriced = Pricing(FREE, 0)

    def allowance(self, limited: tuple[Limited, ...], *, idle: bool = False) -> Allowance:
        return Allowance(self, plan_of(limited), idle=idle)

    def pricing(self, plan: Plan, model: str) -> Pricing:
        if not plan.budgets:
            return self._unpriced
        return Pricing(self._price(model), self._now())

    def look(self, charges: Sequence[Charge]) -> Taken | Refused:
        """Like `Limiter.take`, but nothing is taken. The charges wish for nothing."""
        result = self.limiter.take(charges, ())
        if isinstance(result, Taken):
            self.limiter.settle(result, result.amounts)
        return result

    def alert_once(
        self, budget_of: BudgetOf, spent: int, epoch: int, *, is_hard: bool, cost: str = ""
    ) -> None:
        """Alert about a budget of which so many units are spent, unless it was done."""
        subject, budget = budget_of
        name = subject, f"{budget.unit}/{budget.period}", epoch, is_hard
        with self._alerting:
            if name in self._alerted:
                return
            if len(self._alerted) >= MOST_ALERTS:
                del self._alerted[next(iter(self._alerted))]
            self._alerted[name] = None
        amount = spent / SCALES[budget.unit]
        self._alert(
            Alert(
                subject, budget.unit, budget.period, amount, budget.soft, budget.most, is_hard, cost
            )
        )

    def close(self) -> None:
        self.limiter.close()


class Allowance:
    """What one request may take, in one or several rounds. `states` are those of its windows,
    `warnings` those about its budgets. All its choices have one place in the queue. An `idle`
    request does not count among those that run or wait."""

    def __init__(self, service: LimitService, plan: Plan, *, idle: bool = False) -> None:
        self._whole = plan
        self.plan = plan.of(())
        self.states: Sequence[State] = ()
        self.warnings: Sequence[str] = ()
        self._service = service
        self._idle = idle
        self._gauges = plan.idle_gauges if idle else plan.gauges
        self._models: frozenset[str] = frozenset()  # whose windows have counted the request
        self._queued = 0  # choices that wait for a slot
        self._place: Reservation | None = None  # in the queue
        self._lock = native_lock()

    def for_model(self, names: Callable[[], Sequence[str]]) -> None:
        """The request is to the model with these names, so the limits for this model count too."""
        if self._whole.patterns:
            self.plan = self._whole.of(names())

    def admit(self, size: Size, model: str, exact: Callable[[], Size] | None = None) -> Reservation:
        """Take what a request to this model, or a round of it, may need. With `exact`, `size` is
        only an upper bound; `exact` asks the backend, so it is called if the difference may matter.
        Raises LimitReached, BudgetExceeded, BadRequest, LimitsUnavailable, StoreUnavailable."""
        plan, service = self.plan, self._service
        terms = service.pricing(plan, model)
        if exact is not None and not plan.is_small(size.prompt, terms):
            size, exact = exact(), None
        plan.check_prompt(size.prompt)
        charges = plan.charges(size, terms, self._models)
        result = service.limiter.take(charges, self._gauges)
        by = result.by if isinstance(result, Refused) else None
        if exact is not None and isinstance(by, Charge) and by.gives_back:
            charges = plan.charges(exact(), terms, self._models)
            result = service.limiter.take(charges, self._gauges)
        self._note(charges, result)
        if isinstance(result, Refused):
            raise self._refusal(charges, result)
        counted, self._models = self._models, self._models.union(plan.models, ALL_MODELS)
        room = plan.room(charges, result, size)
        if room and exact is not None:
            charges = plan.charges(size := exact(), terms, counted)
            room = plan.room(charges, result, size)
        reservation = Reservation(service, plan, terms, result)
        if room:
            reservation.room = room[0]
            self.warnings = (*self.warnings, bounded(*room, result))
        return reservation

    def check(self) -> None:
        """Refuse what the limits refuse whatever its size. Raises like `admit`."""
        whole = self.plan.charges(Size(), self._service.pricing(self.plan, ""))
        charges = [replace(charge, wish=0, gives_back=False) for charge in whole]
        result = self._service.look(charges)
        if isinstance(result, Refused):
            self._note(charges, result)
            raise self._refusal(charges, result)

    def begin(self, model: str) -> None:
        """Count the request, and ask for a token that is given back at once: before tools run that
        the model has not asked for. Raises as `admit` does."""
        self.admit(Size(1), model).close()

    @contextmanager
    def queued(self) -> Iterator[None]:
        """Have a place in the queue. Raises LimitReached, LimitsUnavailable."""
        with self._lock:
            self._queued += 1
            is_first = self._queued == 1
        try:
            if is_first and self.plan.queue and not self._idle:
                result = self._service.limiter.take((), self.plan.queue)
                if isinstance(result, Refused):
                    raise refusal(result.by, None)
                self._place = Reservation(self._service, self.plan, None, result)
            yield
        finally:
            with self._lock:
                self._queued -= 1
                place = None if self._queued else self._place
            if place is not None:
                self._place = None
                place.close()

    def _refusal(self, charges: Sequence[Charge], result: Refused) -> GatewayError:
        by, plan = result.by, self.plan
        if not isinstance(by, Charge):
            return refusal(by, result.wait)
        place = next(place for place, charge in enumerate(charges) if charge is by)
        used, windows = result.levels[place], plan.windows
        if place < len(windows):
            return refusal(by, result.wait, model=windows[place].limit.model)
        budget_of = plan.budgets[place - len(windows)]
        cost = cost_text(by, budget_of.budget.unit)
        self._service.alert_once(budget_of, used, by.meter.epoch, is_hard=True, cost=cost)
        return refusal(by, result.wait, used)

    def _note(self, charges: Sequence[Charge], result: Taken | Refused) -> None:
        """Note what is left of each quantity: the window with the least of it counts."""
        least: dict[Quantity, State] = {}
        # The levels of budgets follow those of windows.
        for (_, limit, meter), used in zip(self.plan.windows, result.levels, strict=False):
            quantity = limit.quantity
            left = max(0, meter.capacity - used) // TICKS
            if quantity not in least or left < least[quantity].remaining:
                reset = until_empty(meter, used, result.at)
                least[quantity] = State(quantity, limit.most, left, reset)
        self.states = tuple(least.values())
        self.warnings = ()
        if self.plan.budgets:
            self._warn(charges, result)

    def _warn(self, charges: Sequence[Charge], result: Taken | Refused) -> None:
        """Warn about budgets whose soft limit was reached before this request."""
        warnings = []
        for place, budget_of in enumerate(self.plan.budgets, start=len(self.plan.windows)):
            spent, budget = result.levels[place], budget_of.budget
            if isinstance(result, Taken):
                spent -= result.amounts[place]
            if budget.soft is None or spent < units(budget.unit, budget.soft):
                continue
            self._service.alert_once(budget_of, spent, charges[place].meter.epoch, is_hard=False)
            most = "" if budget.most is None else f" of {plain(budget.most)}"
            warnings.append(
                f"{plain(spent / SCALES[budget.unit])}{most} {budget.unit} of the budget of the"
                f" {budget_of.subject.partition(' ')[0]} are spent"
            )
        self.warnings = warnings


class Reservation:
    """What was taken for a request. Settled once, by `settle` or `close`. `room` are the tokens of
    the answers that it is enough for, None for all that they may have."""

    room: int | None = None

    def __init__(
        self, service: LimitService, plan: Plan, terms: Pricing | None, taken: Taken | None
    ) -> None:
        self._service = service
        self._plan = plan
        self._terms = terms
        self._taken = taken

    def settle(self, used: Used) -> None:
        """Give back what was not used of what was taken."""
        taken, self._taken = self._taken, None
        if taken is None:
            return
        amounts: Sequence[int] = ()
        if self._terms is not None:
            amounts = self._plan.used(taken.amounts, used, self._terms)
        self._service.limiter.settle(taken, amounts)

    def close(self) -> None:
        """Give everything back that is not settled."""
        self.settle(NOTHING)


class LimitStatus(Struct, frozen=True):
    """A limit of the key, team or user (`level`): `used` of `most` in a `period`, "" for ever. In
    `reset` seconds nothing of it is used, None for never. `warns`: a budget that only warns.
    `model`: its pattern."""

    level: str
    quantity: str
    period: str
    most: float
    used: float
    reset: float | None
    is_budget: bool = False
    warns: bool = False
    model: str = ""


def limit_statuses(
    service: LimitService, limits: Sequence[Limited], now: int
) -> Sequence[LimitStatus]:
    """The windows and budgets of all levels at this time. Raises LimitsUnavailable."""
    bounds: list[tuple[str, Window | Budget, Meter]] = []
    for limited in limits:
        windows, budgets = limited.limits.windows, budgets_of(limited)
        bounds += [(limited.subject, window, meter_of_window(window)) for window in windows]
        bounds += [(limited.subject, budget, meter_of(budget, now)) for budget in budgets]
    if not bounds:
        return ()
    charges = [Charge(subject, meter, 0, 0, gives_back=False) for subject, _, meter in bounds]
    result = service.look(charges)
    statuses = []
    for (subject, limit, meter), used in zip(bounds, result.levels, strict=True):
        level, reset = subject.partition(" ")[0], round(until_empty(meter, used, result.at), 1)
        if isinstance(limit, Window):
            name, whole, model = limit.quantity, -(-used // TICKS), limit.model
            status = LimitStatus(level, name, limit.period, limit.most, whole, reset, model=model)
        else:
            warns = limit.most is None
            most = (limit.soft if warns else limit.most) or 0.0
            amount, end = used / SCALES[limit.unit], reset if limit.period else None
            status = LimitStatus(level, limit.unit, limit.period, most, amount, end, True, warns)
        statuses.append(status)
    return statuses
