"""Which model is loaded next, and which end for it."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from proxy.hosting.memory_budget import Limits, ending

NOW, SWAP_WAIT = 1000.0, 10.0


@dataclass(eq=False)
class Model:
    """One that waits if it has `waiters`. A load takes 5 seconds."""

    name: str
    need: tuple[int, ...] = (1,)
    waiters: Sequence[float] = ()
    used: float = 0.0
    loaded_at: float = 0.0
    takes: float = 5.0
    busy: bool = False
    pinned: bool = False
    leaving: bool = False
    swaps: int = 0

    def runs_beside(self, others: Set[str]) -> bool:
        return True

    def is_idle(self, now: float) -> bool:
        return not self.busy and self.loaded_at < now

    def stop(self) -> None: ...


def waits(name: str, *since: float, need: int = 1) -> Model:
    return Model(name, (need,), since or (NOW,), loaded_at=math.inf)


def ended(limits: Limits, first: Model, loaded: Sequence[Model]) -> str:
    """The names of the models that end for the first in line."""
    ends = ending(limits, first, loaded, NOW, SWAP_WAIT)
    return "".join(sorted(model.name for model in ends))


needs = st.lists(st.integers(0, 3), min_size=1, max_size=2).map(tuple)
times = st.floats(0, NOW)
waiting = st.builds(Model, st.just("w"), needs, st.lists(times, min_size=1, max_size=3))
residents = st.lists(
    st.builds(
        Model,
        st.just("m"),
        needs,
        used=times,
        loaded_at=times | st.just(math.inf),
        takes=st.floats(0, 60),
        busy=st.booleans(),
        pinned=st.booleans(),
        leaving=st.booleans(),
    ),
    max_size=5,
)


@given(waiting, residents, st.integers(0, 8), st.integers(0, 4), st.integers(0, 4))
def test_nobody_ends_without_need(
    first: Model, loaded: list[Model], memory: int, card: int, most: int
) -> None:
    limits = Limits(memory, most, (card,))
    ends = ending(limits, first, loaded, NOW, SWAP_WAIT)
    for model in ends:
        assert not (model.pinned or model.leaving)
        assert model.is_idle(NOW) or NOW - model.loaded_at >= model.takes
    if ends:
        staying = [other for other in loaded if not other.leaving and other not in ends]
        assert limits.allow([*staying, first])
        for model in ends:  # none of them could stay
            assert not limits.allow([*staying, model, first])


def test_model_that_would_not_help_stays() -> None:
    loaded = [Model("small", (1,), used=1.0), Model("large", (5,), used=2.0)]
    assert ended(Limits(6), waits("x", need=5), loaded) == "large"
    cards = [Model("first", (1, 0, 5), used=1.0), Model("second", (1, 5), used=2.0)]
    other = Model("x", (0, 5), (NOW,))
    assert ended(Limits(0, 0, (5, 5)), other, cards) == "second"


def test_busy_model_serves_at_least_as_long_as_its_load_took() -> None:
    for since, ends in ((NOW - 4.9, ""), (NOW - 5.0, "a"), (math.inf, "")):
        busy = Model("a", loaded_at=since, busy=True)
        assert ended(Limits(1), waits("b", 0.0), [busy]) == ends


def test_busy_model_ends_once_another_has_waited_for_swap_wait() -> None:
    busy = [Model("a", loaded_at=0.0, busy=True)]
    for since, ends in ((NOW - SWAP_WAIT + 0.1, ""), (NOW - SWAP_WAIT, "a")):
        assert ended(Limits(1), waits("b", since), busy) == ends
