"""What the limits of a key, user and team mean for one request. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2s
from typing import NamedTuple

from msgspec import Struct

from ...errors import BadRequest, BudgetExceeded, GatewayError, LimitReached
from ..limits import PERIODS, Budget, Limited, Unit, Window
from ..rights import matches
from .budgets import SCALES, Price, Used, budgets_of, cost, meter_of, plain, unit_of, units
from .limiter import ANY, TICKS, Charge, Gauge, Meter, Taken, window

PARALLEL, QUEUED, IDLE = "parallel", "queued", "idle"
FEWEST = 16  # tokens that must be left for an answer whose length the client has not bounded
AMPLE = 1024  # that it takes if they are left; of more, half, so that others may run beside it
SMALL = 64  # a prompt of at most one such part of each limit need not be counted exactly
_SUBJECTS = {"key": "this API key", "team": "the team of this API key", "user": "its user"}
_UNITS = {"money": "", "tokens": " tokens", "slot_seconds": " seconds of slots"}
_ADVICE = "or ask an administrator for more"


class Size(Struct, frozen=True, gc=False):
    """What a request may need: tokens of its prompts, and of its answers at most. `known`: the
    client has bounded the answer; otherwise that is all that the context has room for."""

    prompt: int = 0
    answer: int = 0
    known: bool = True


class Pricing(NamedTuple):
    """How a request is charged: the price of its model at a time (microseconds since 1970)."""

    price: Price
    now: int


class WindowOf(NamedTuple):
    subject: str
    limit: Window
    meter: Meter


class BudgetOf(NamedTuple):
    subject: str
    budget: Budget


class Plan:
    """The limits of a request, of all levels: those of windows, then those of budgets. `patterns`
    are the models that windows are for. `counts_tokens`: its prompt must be counted."""

    def __init__(self, limited: Sequence[Limited], models: frozenset[str] | None = None) -> None:
        """`models` are the patterns whose windows count; None is all of them."""
        self.windows = [
            WindowOf(level.subject, limit, meter_of_window(limit))
            for level in limited
            for limit in level.limits.windows
            if models is None or not limit.model or limit.model in models
        ]
        self.models = {window.limit.model for window in self.windows}
        self.patterns = frozenset(self.models - {""})
        self._limited = limited
        self._narrowed: dict[frozenset[str], Plan] = {}
        self.budgets = [
            BudgetOf(level.subject, budget) for level in limited for budget in budgets_of(level)
        ]
        parallel = {level.subject: level.limits.parallel for level in limited}
        bounds = {name: ANY if most is None else most for name, most in parallel.items()}
        self.gauges = [Gauge(name, PARALLEL, most) for name, most in bounds.items()]
        self.idle_gauges = [Gauge(level.subject, IDLE, ANY) for level in limited]
        held = [(level.subject, level.limits) for level in limited]
        self.queue = [
            Gauge(name, QUEUED, own.queued) for name, own in held if own.queued is not None
        ]
        self._prompts = [(own.prompt, name) for name, own in held if own.prompt is not None]
        of_tokens = [limit.most for _, limit, _ in self.windows if limit.quantity != "requests"]
        parts = [most // SMALL for most in of_tokens]
        self._small = min([*(most for most, _ in self._prompts), *parts], default=None)
        answers = [own.answer for _, own in held if own.answer is not None]
        self.largest_answer = min(answers, default=None)
        self.counts_tokens = bool(self._prompts or self.budgets or of_tokens)
        self._requests: dict[frozenset[str], list[Charge]] = {}

    def of(self, names: Sequence[str]) -> Plan:
        """The plan of a request to the model with these names: without windows of other models."""
        if not self.patterns:
            return self
        fits = [p for p in self.patterns if any(matches(p, name) for name in names)]
        models = frozenset(fits)
        narrowed = self._narrowed.get(models)
        if narrowed is None:
            narrowed = self._narrowed[models] = Plan(self._limited, models)
        return narrowed

    def is_small(self, prompt: int, terms: Pricing) -> bool:
        """Whether so many prompt tokens are a small part of every limit."""
        if self._small is not None and prompt > self._small:
            return False
        for _, budget in self.budgets:
            if SMALL * _prompt_units(budget, prompt, terms) > meter_of(budget, terms.now).capacity:
                return False
        return True

    def check_prompt(self, tokens: int) -> None:
        """Raises BadRequest if the prompt is larger than allowed."""
        most, subject = min(self._prompts, default=(tokens, ""))
        if tokens > most:
            raise BadRequest(
                f"the prompt has {tokens} tokens, and {_who(subject)} may send at most {most}: send"
                " less history",
                code="prompt_too_large",
            )

    def charges(
        self, size: Size, terms: Pricing, counted: frozenset[str] = frozenset()
    ) -> Sequence[Charge]:
        """What a request takes. In the windows of the models `counted`, "" for those of all, it has
        been counted: it is a further round, or is answered by another model than it began with."""
        made = self._requests.get(counted)
        if made is None:
            made = self._requests[counted] = []
            for subject, limit, meter in self.windows:
                count = 0 if limit.model in counted else TICKS
                made.append(Charge(subject, meter, count, count, gives_back=False))
        if not self.counts_tokens:
            return made
        taken = []
        prompt = size.prompt * TICKS
        for (subject, limit, meter), request in zip(self.windows, made, strict=True):
            if limit.quantity == "requests":
                taken.append(request)
            elif limit.quantity == "prompt_tokens":
                taken.append(Charge(subject, meter, prompt, prompt))
            else:
                taken.append(_charge(subject, meter, prompt, TICKS, size))
        for subject, budget in self.budgets:
            taken.append(_budget_charge(subject, budget, size, terms))
        return taken

    def room(self, charges: Sequence[Charge], taken: Taken, size: Size) -> tuple[int, int] | None:
        """The tokens for which enough was taken, if the answers may be longer, and the place of the
        charge that bounds them. `charges` are those of this `size`."""
        rooms = [
            (size.answer + int((amount - charge.wish) // charge.token), place)
            for place, (charge, amount) in enumerate(zip(charges, taken.amounts, strict=True))
            if charge.token and amount < charge.wish
        ]
        return min(rooms, default=None)

    def used(self, amounts: Sequence[int], used: Used, terms: Pricing) -> Sequence[int]:
        """The units of each charge that were used, of these amounts that were taken."""
        if not self.counts_tokens:
            return amounts
        amounts_used = []
        # The amounts of budgets follow those of windows.
        for (_, limit, _), amount in zip(self.windows, amounts, strict=False):
            if limit.quantity == "requests":
                amounts_used.append(amount)
            elif limit.quantity == "prompt_tokens":
                amounts_used.append(used.prompt * TICKS)
            else:
                amounts_used.append((used.prompt + used.completion) * TICKS)
        for _, budget in self.budgets:
            amounts_used.append(units(budget.unit, cost(budget.unit, used, terms.price)))
        return amounts_used


def _charge(subject: str, meter: Meter, prompt: int, token: float, size: Size) -> Charge:
    """A charge in units. An answer that may exceed the whole limit takes all of it."""
    need = wish = prompt + round(size.answer * token)
    least = 0
    if not size.known:
        need = prompt + round(min(size.answer, FEWEST) * token)
        least = prompt + round(AMPLE * token)
    if prompt < meter.capacity:
        need = min(need, meter.capacity)
    return Charge(subject, meter, need, wish, least=least, token=token)


def _budget_charge(subject: str, budget: Budget, size: Size, terms: Pricing) -> Charge:
    unit, meter = budget.unit, meter_of(budget, terms.now)
    if unit == "slot_seconds":  # how long it takes is known at its end
        return Charge(subject, meter, 1, 1)
    prompt = _prompt_units(budget, size.prompt, terms)
    token = cost(unit, Used(completion=1), terms.price) * SCALES[unit]
    return _charge(subject, meter, prompt, token, size)


def _prompt_units(budget: Budget, tokens: int, terms: Pricing) -> int:
    return units(budget.unit, cost(budget.unit, Used(tokens), terms.price))


def meter_of_window(limit: Window) -> Meter:
    """The meter of a window; its name may have only letters, digits, `_` and `/`."""
    name = f"{limit.quantity}/{limit.period}"
    if limit.model:
        digest = blake2s(limit.model.encode(), digest_size=12, person=b"model").hexdigest()
        name = f"{name}/{digest}"
    return window(name, limit.most, PERIODS[limit.period])


def refusal(
    by: Charge | Gauge, wait: float | None, used: int = 0, *, model: str = ""
) -> GatewayError:
    """The error of a reached limit; `used` is the level, `model` the one that it is for."""
    who = _who(by.subject)
    if isinstance(by, Gauge):
        amount = _counted(by.most, "requests")
        doing = "running at the same time" if by.name == PARALLEL else "waiting for a slot"
        return LimitReached(
            f"{who} may have {amount} {doing}: try again when one has ended, {_ADVICE}",
            retry_after=1.0,
        )
    quantity, period = by.meter.name.split("/")[:2]
    if (unit := unit_of(by.meter)) is not None:
        return _over_budget(by, unit, period, wait, used)
    most = by.meter.capacity // TICKS
    amount = _counted(most, quantity.replace("_", " "))
    of = f" of the model {model!r}" if model else ""
    if wait is None and not most:
        return LimitReached(f"{who} may use {amount}{of}: ask an administrator for more")
    if wait is None:
        return LimitReached(
            f"{who} may use {amount} a {period}{of}, and this request needs {by.need // TICKS}:"
            f" send a shorter one, {_ADVICE}"
        )
    return LimitReached(
        f"{who} has used up its {amount} a {period}{of}: try again in {_duration(wait)}, {_ADVICE}",
        retry_after=max(1.0, wait),
    )


def _over_budget(
    by: Charge, unit: Unit, period: str, wait: float | None, used: int
) -> BudgetExceeded:
    scale = SCALES[unit]
    most, spent, thing = plain(by.meter.capacity / scale), plain(used / scale), _UNITS[unit]
    each = "" if period == "ever" else f" in each {period}"
    advice = "ask" if wait is None else f"wait {_duration(wait)}, or ask"
    # The first words are those of LiteLLM.
    return BudgetExceeded(
        f"Budget has been exceeded! {_who(by.subject)} may spend {most}{thing}{each}, {spent} are"
        f" spent or reserved{cost_text(by, unit)}: {advice} an administrator for more",
        retry_after=wait,
    )


def cost_text(by: Charge, unit: Unit) -> str:
    """What a refused request may cost, as the end of a sentence."""
    if unit == "slot_seconds" or not by.need:  # it is refused whatever its size
        return ""
    amount, how = (by.need, "costs at least") if by.least else (by.wish, "may cost up to")
    return f", and this request {how} {plain(amount / SCALES[unit])}"


def bounded(room: int, place: int, taken: Taken) -> str:
    """The warning that an answer has so many tokens at most, because of the charge at a place."""
    charge, level = taken.charges[place], taken.levels[place] - taken.amounts[place]
    unit = unit_of(charge.meter)
    scale, what = (SCALES[unit], f"{unit} of the budget") if unit else (TICKS, "tokens")
    most, spent = plain(charge.meter.capacity / scale), plain(level / scale)
    return (
        f"the answer ends after {room} tokens at the latest: {spent} of {most} {what} of the"
        f" {charge.subject.partition(' ')[0]} are spent or reserved"
    )


def _counted(count: int, things: str) -> str:
    """3 requests, 1 request, no requests."""
    return f"{count or 'no'} {things.removesuffix('s') if count == 1 else things}"


def _who(subject: str) -> str:
    return _SUBJECTS[subject.partition(" ")[0]]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{max(1, -(-seconds // 1)):.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours"
