"""Which free slots are compared, where there are more than a decision looks at."""

from __future__ import annotations

from proxy.scheduling.pool import LOOKED_AT
from proxy.scheduling.state import BackendFacts

from .fakes import World


def test_least_recently_used_slots_of_an_evaluating_backend_do_not_hide_idle_backends() -> None:
    world = World(slots=LOOKED_AT + 4)
    world.take("a long document " * 10_000)
    world.scheduler.update("b1", BackendFacts(model="m", slots=2), up=True)
    # From here on, the free slots that were used least recently are all of the first backend.
    assert [world.turn(f"question {n}").backend for n in range(2)] == ["b1", "b1"]
    assert [world.take(f"{n} other questions").backend for n in range(2)] == ["b1", "b1"]


def test_slots_of_evaluating_backends_are_compared_if_there_are_no_others() -> None:
    world = World(slots=4, backends=2)
    world.take("a long document " * 10_000)
    assert world.take("a shorter document " * 1_000).backend == "b1"
    assert [world.take(f"question {n}").backend for n in range(3)] == ["b1"] * 3
    assert world.take("question 3").backend == "b0"
