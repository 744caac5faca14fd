"""What the limits of a key, user and team mean for one request. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...errors import BadRequest, GatewayError, LimitReached
from ..limits import PERIODS, Limited, Quantity
from .meters import ANY, TICKS, Charge, Gauge, Meter, window

PARALLEL, QUEUED = "parallel", "queued"
_SUBJECTS = {"key": "this API key", "team": "the team of this API key", "user": "its user"}
_THINGS = {"requests": "requests", "prompt_tokens": "prompt tokens", "tokens": "tokens"}
_ADVICE = "or ask an administrator for more"


class Size(NamedTuple):
    """The tokens that a request may need: of its prompts, and of its answers at most. `known`: the
    client has bounded the answer; otherwise that is all that the context has room for."""

    prompt: int = 0
    answer: int = 0
    known: bool = True


class Used(NamedTuple):
    """The tokens that a request has used; `prompt` counts cached ones by their weight."""

    prompt: float = 0.0
    completion: int = 0


class _Window(NamedTuple):
    subject: str
    quantity: Quantity
    meter: Meter


class Plan:
    """The limits of a request, of all levels. `counts_tokens`: its prompt must be counted."""

    def __init__(self, limited: Sequence[Limited]) -> None:
        self._windows = [
            _Window(one.subject, each.quantity, _meter(each.quantity, each.period, each.most))
            for one in limited
            for each in one.limits.windows
        ]
        self.gauges = [
            Gauge(
                one.subject, PARALLEL, ANY if one.limits.parallel is None else one.limits.parallel
            )
            for one in limited
        ]
        self.queue = [
            Gauge(one.subject, QUEUED, one.limits.queued)
            for one in limited
            if one.limits.queued is not None
        ]
        self._prompts = [
            (one.limits.prompt, one.subject) for one in limited if one.limits.prompt is not None
        ]
        answers = [one.limits.answer for one in limited if one.limits.answer is not None]
        self.largest_answer = min(answers, default=None)
        self.waiting = frozenset(one.subject for one in limited if one.limits.on_limit == "wait")
        self.counts_tokens = bool(self._prompts) or any(
            one.quantity != "requests" for one in self._windows
        )
        self._requests = {
            counts: [_request(one, TICKS if counts else 0) for one in self._windows]
            for counts in (True, False)
        }

    def check_prompt(self, tokens: int) -> None:
        """Raises BadRequest if the prompt is larger than allowed."""
        most, subject = min(self._prompts, default=(tokens, ""))
        if tokens > most:
            raise BadRequest(
                f"the prompt has {tokens} tokens, and {_who(subject)} may send at most {most}: send"
                " less history",
                code="prompt_too_large",
            )

    def charges(self, size: Size, *, counts: bool) -> Sequence[Charge]:
        """What a request takes; `counts`: it is a request of its own, and no further round of
        one."""
        made = self._requests[counts]
        if not self.counts_tokens:
            return made
        found = []
        for one, request in zip(self._windows, made, strict=True):
            meter = one.meter
            if one.quantity == "requests":
                found.append(request)
                continue
            need = wish = size.prompt * TICKS
            if one.quantity == "tokens":
                wish += size.answer * TICKS
                need = wish if size.known else need + min(1, size.answer) * TICKS
                if size.prompt * TICKS < meter.capacity:
                    # An answer that may be longer than the whole limit takes all of it.
                    need, wish = min(need, meter.capacity), min(wish, meter.capacity)
            found.append(Charge(one.subject, meter, need, wish))
        return found

    def used(self, charges: Sequence[Charge], amounts: Sequence[int], used: Used) -> Sequence[int]:
        """The units of each charge that were used."""
        if not self.counts_tokens:
            return amounts
        found = []
        for one, charge, amount in zip(self._windows, charges, amounts, strict=True):
            if not charge.gives_back:
                found.append(amount)
            else:
                completion = used.completion if one.quantity == "tokens" else 0
                found.append(round((used.prompt + completion) * TICKS))
        return found

    def quantity(self, place: int) -> Quantity:
        return self._windows[place].quantity


def _request(one: _Window, units: int) -> Charge:
    return Charge(one.subject, one.meter, units, units, gives_back=False)


def _meter(quantity: Quantity, period: str, most: int) -> Meter:
    return window(f"{quantity}/{period}", most, PERIODS[period])  # type: ignore[index]


def refusal(by: Charge | Gauge, wait: float | None) -> GatewayError:
    """The error of a request that reached a limit."""
    who = _who(by.subject)
    if isinstance(by, Gauge):
        doing = "run at the same time" if by.name == PARALLEL else "wait for a slot"
        return LimitReached(
            f"{who} may have {by.most} requests that {doing}: try again when one has ended,"
            f" {_ADVICE}",
            retry_after=1.0,
        )
    quantity, _, period = by.meter.name.partition("/")
    most, thing = by.meter.capacity // TICKS, _THINGS[quantity]
    if wait is None:
        return LimitReached(
            f"{who} may use {most} {thing} a {period}, and this request needs"
            f" {by.need // TICKS}: send a shorter one, {_ADVICE}"
        )
    return LimitReached(
        f"{who} has used up its {most} {thing} a {period}: try again in {_duration(wait)},"
        f" {_ADVICE}",
        retry_after=max(1.0, wait),
    )


def _who(subject: str) -> str:
    return _SUBJECTS[subject.partition(" ")[0]]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{max(1, -(-seconds // 1)):.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours"
