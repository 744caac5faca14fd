"""Which models may be loaded at once.

Models that requests need stand in one line, in the order of their first requests. The first enters
when it fits beside the loaded ones, and unloads none of these by its settings. Others end for it:

1. Idle models end, those used last stay.
2. If these do not suffice, busy ones end too, after their answers, once the first of the requests
   has waited `swap_wait` seconds. But a busy model stays at least as long as its load took, so that
   no more time is spent on loads than on answers. It takes no new requests; those that are held
   back load it again, in their turn.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence, Set
from itertools import zip_longest
from typing import Protocol

from msgspec import Struct

from ..errors import BadRequest

LOOK = 0.25  # seconds between two looks at the line
GIB = 1 << 30

# Bytes: of the machine's memory, then of each graphics card's. What is left out is 0.
Amounts = tuple[int, ...]


class Candidate(Protocol):
    """A model, as far as its room is concerned. `HostedModel` says what its parts are."""

    name: str
    used: float
    pinned: bool
    swaps: int  # unloads that made room for another model

    @property
    def need(self) -> Amounts: ...

    @property
    def waiters(self) -> Sequence[float]: ...

    @property
    def takes(self) -> float: ...

    @property
    def loaded_at(self) -> float: ...

    @property
    def leaving(self) -> bool: ...

    def is_idle(self, now: float) -> bool: ...

    def runs_beside(self, others: Set[str]) -> bool: ...

    def stop(self) -> None: ...


class Limits(Struct, frozen=True):
    """What may be loaded: bytes of memory, models, bytes of each graphics card; 0: any."""

    memory: int = 0
    models: int = 0
    cards: Amounts = ()

    @property
    def amounts(self) -> Amounts:
        return (self.memory, *self.cards)

    def allow(self, models: Sequence[Candidate], first: Candidate | None = None) -> bool:
        """Whether these models may be loaded together, the `first` after the others."""
        others = {model.name for model in models if model is not first}
        if first is not None and not first.runs_beside(others):
            return False
        if self.models and len(models) > self.models:
            return False
        used = zip(self.amounts, total(models), strict=False)
        return all(not limit or amount <= limit for limit, amount in used)


def total(models: Sequence[Candidate]) -> Amounts:
    return tuple(map(sum, zip_longest(*(model.need for model in models), fillvalue=0)))


Models = Sequence[Candidate]


def ending(
    limits: Limits, first: Candidate, loaded: Models, now: float, swap_wait: float
) -> Models:
    """The models that shall end for the first in line, which does not fit beside them."""
    staying = [model for model in loaded if not model.leaving]
    free = [model for model in staying if not model.pinned]
    idle = _victims(limits, first, staying, [model for model in free if model.is_idle(now)])
    if idle is not None:
        return idle
    victims = _victims(limits, first, staying, free) or ()
    busy = [model for model in victims if not model.is_idle(now)]
    served = all(now - model.loaded_at >= model.takes for model in busy)
    late = now - min(first.waiters) >= swap_wait
    return victims if served and late else ()


def _victims(limits: Limits, first: Candidate, loaded: Models, free: Models) -> Models | None:
    """The free models that must end so that the first fits; None if that does not suffice."""
    together = [first, *(model for model in loaded if model not in free)]
    if not limits.allow(together, first):
        return None
    victims = []
    for model in sorted(free, key=lambda model: model.used, reverse=True):
        if limits.allow([*together, model], first):
            together.append(model)
        else:
            victims.append(model)
    return victims


class MemoryBudget:
    """`changed` is the lock of the budget and of its models, and woken by any change."""

    def __init__(
        self,
        limits: Limits = Limits(),  # noqa: B008  (frozen)
        swap_wait: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.changed = threading.Condition()
        self.limits = limits
        self._swap_wait = swap_wait
        self._clock = clock
        self._waiting: list[Candidate] = []
        self._loaded: list[Candidate] = []

    def enter(self, model: Candidate) -> bool:
        """Wait until there is room for a model, which then has it until `leave`. Returns False if
        no request waits for it any more. Raises BadRequest if it can never fit."""
        with self.changed:
            self._waiting.append(model)
            try:
                while model.waiters:
                    self._check(model)
                    limits, loaded, first = self.limits, self._loaded, self._line()[0]
                    if not limits.allow([*loaded, first], first):
                        now = self._clock()
                        for other in ending(limits, first, loaded, now, self._swap_wait):
                            other.stop()
                            other.swaps += 1
                    elif first is model:
                        loaded.append(model)
                        return True
                    self.changed.wait(LOOK)
                return False
            finally:
                self._waiting.remove(model)
                self.changed.notify_all()

    def leave(self, model: Candidate) -> None:
        with self.changed:
            if model in self._loaded:
                self._loaded.remove(model)
            self.changed.notify_all()

    @property
    def residents(self) -> tuple[Candidate, ...]:
        """The models that have room: loaded ones, those that load, and those that end."""
        with self.changed:
            return tuple(self._loaded)

    def place(self, model: Candidate) -> tuple[int, float]:
        """The place of a model in the line, 0 if it has room, and the seconds until it is loaded if
        answers under way and loads take no longer than expected."""
        with self.changed:
            line = self._line()
            if model not in line:
                return 0, model.takes
            number = line.index(model) + 1
            loads = sum(other.takes for other in line[:number])
            patience = self._swap_wait - (self._clock() - min(line[0].waiters))
            return number, loads + max(0.0, patience)

    def _line(self) -> list[Candidate]:
        waiting = [model for model in self._waiting if model.waiters]
        return sorted(waiting, key=lambda model: (min(model.waiters), model.name))

    def _check(self, model: Candidate) -> None:
        """Raises BadRequest if a model does not fit beside the pinned ones."""
        pinned = total([other for other in self._loaded if other.pinned and other is not model])
        devices = zip_longest(self.limits.amounts, model.need, pinned, fillvalue=0)
        for device, (limit, need, rest) in enumerate(devices):
            if limit and need + rest > limit:
                where = f" of graphics card {device - 1}" if device else ""
                beside = f", of which pinned models take {rest / GIB:.1f}" if rest else ""
                why = (
                    f"the model {model.name} does not fit: it needs about {need / GIB:.1f}"
                    f" GiB{where}, and models may take {limit / GIB:.1f} GiB{beside}"
                    f" ({'--gpu-memory' if device else '--memory'})"
                )
                raise BadRequest(why, param="model", code="model_too_large")
