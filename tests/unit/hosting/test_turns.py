"""Which model is loaded next, and which ends for it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.swaps import Request, crowd, llama_swap, report, run, slotproxy
from proxy.hosting.budget import Limits, Resident, shortage, victims
from proxy.hosting.memory_budget import LONGEST_DEBT, Asked, Debts, Loaded, Step, Waiter, step

NOW = 1000.0


def asked(name: str, *since: float, key: str = "", load: float = 10.0, need: int = 1) -> Asked:
    return Asked(name, (need,), load, tuple(Waiter(key, one) for one in since))


def busy(name: str, *, worth: float = 0.0, need: int = 1, since: float = 0.0) -> Loaded:
    return Loaded(Resident(name, (need,), worth), since=since, load=5.0)


def idle(name: str, worth: float = 0.0) -> Loaded:
    return Loaded(Resident(name, (1,), worth), since=0.0, load=5.0, idle=True)


times = st.floats(0, NOW)
lines = st.lists(
    st.tuples(st.integers(0, 3), st.lists(times, min_size=1, max_size=4), st.floats(0, 60)),
    max_size=4,
).map(lambda rows: [asked(f"w{i}", *t, need=n, load=ld) for i, (n, t, ld) in enumerate(rows)])
residents = st.lists(
    st.builds(
        Loaded,
        st.builds(Resident, st.just(""), st.integers(0, 3).map(lambda n: (n,)), st.floats(0, 99)),
        since=times | st.just(math.inf),
        load=st.floats(0, 60),
        idle=st.booleans(),
        pinned=st.booleans(),
        leaving=st.booleans(),
    ),
    max_size=5,
)


def named(loaded: list[Loaded]) -> list[Loaded]:
    return [
        Loaded(
            Resident(f"m{i}", one.resident.need, one.resident.worth),
            since=one.since,
            load=one.load,
            idle=one.idle and one.since < math.inf,
            pinned=one.pinned,
            leaving=one.leaving,
        )
        for i, one in enumerate(loaded)
    ]


@given(lines, residents, st.integers(0, 8), st.floats(0, 60))
def test_a_model_enters_only_if_it_fits_and_nobody_ends_without_need(
    line: list[Asked], made: list[Loaded], memory: int, swap_wait: float
) -> None:
    loaded, limits = named(made), Limits(memory)
    there = [one.resident for one in loaded]
    done = step(limits, line, loaded, NOW, swap_wait)
    entering = [one for one in line if one.name == done.enters]
    assert [one for one in entering if shortage(limits, one.need, there)] == []
    if line and not shortage(limits, line[0].need, there):
        assert done == Step(enters=line[0].name)
    ending = [one for one in loaded if one.resident.name in done.ends]
    assert len(ending) == len(done.ends)
    for one in ending:
        assert not (one.pinned or one.leaving)
        assert one.idle or NOW - one.since >= one.load  # it loads no more, and has served a while
    if not line or not ending:
        return
    missing = shortage(limits, line[0].need, there)
    going = [one.resident for one in loaded if one.leaving or one in ending]
    assert not missing.without(going)
    if any(not one.idle for one in ending):
        free = [one.resident for one in loaded if one.idle and not (one.pinned or one.leaving)]
        left = [one.resident for one in loaded if one.leaving]
        assert victims(free, missing.without(left)) is None  # idle ones did not suffice
        assert all(since <= NOW for since in (one.since for one in line[0].waiters))


def test_busy_model_stays_until_the_waiting_costs_as_much_as_the_change() -> None:
    limits, loaded = Limits(1), [busy("a", worth=4.0)]

    def ends(*since: float) -> bool:
        return step(limits, [asked("b", *since)], loaded, NOW, 60.0).ends == ("a",)

    assert not ends(NOW - 13.9)  # the load takes 10 s, and to lose a costs 4 s
    assert ends(NOW - 14.0)
    assert ends(NOW - 7.0, NOW - 7.0)  # two wait
    assert not ends(NOW - 4.0, NOW - 4.0, NOW - 4.0)


def test_nobody_waits_longer_than_swap_wait_for_later_requests() -> None:
    loaded = [busy("a", worth=1000.0)]
    assert step(Limits(1), [asked("b", NOW - 9.9)], loaded, NOW, 10.0) == Step()
    assert step(Limits(1), [asked("b", NOW - 10.0)], loaded, NOW, 10.0).ends == ("a",)


def test_busy_model_serves_at_least_as_long_as_its_load_took() -> None:
    line = [asked("b", 0.0)]
    assert step(Limits(1), line, [busy("a", since=NOW - 4.9)], NOW, 10.0) == Step()
    assert step(Limits(1), line, [busy("a", since=NOW - 5.0)], NOW, 10.0).ends == ("a",)
    assert step(Limits(1), line, [busy("a", since=math.inf)], NOW, 10.0) == Step()  # it loads


def test_the_least_worthy_model_is_awaited_rather_than_a_dear_one_ended() -> None:
    loaded = [busy("dear", worth=50.0), busy("cheap", worth=1.0, since=NOW - 4.0)]
    line = [asked("b", 0.0)]
    assert step(Limits(2), line, loaded, NOW, 10.0) == Step()
    assert step(Limits(2), line, loaded, NOW + 1.0, 10.0).ends == ("cheap",)


def test_small_model_passes_a_large_one_if_that_is_not_delayed() -> None:
    line = [asked("large", NOW - 1.0, need=3), asked("small", NOW)]
    beside = [busy("a", need=3)]
    assert step(Limits(4), line, beside, NOW, 10.0) == Step(enters="")  # it might be in the way
    gone = [Loaded(Resident("a", (3,), 0.0), since=0.0, leaving=True)]
    assert step(Limits(4), line, gone, NOW, 10.0) == Step(enters="small")
    assert step(Limits(4), [asked("large", 0.0, need=4), line[1]], gone, NOW, 10.0) == Step()


def test_turns_are_in_the_order_of_first_requests() -> None:
    later, earlier = asked("b", 5.0, 6.0, 7.0), asked("c", 9.0, 4.0)
    assert Debts().line([later, earlier]) == [earlier, later]


def test_key_that_had_models_loaded_stands_behind_others() -> None:
    debts = Debts()
    line = [asked(name, 0.0, key="eve") for name in "abcd"] + [asked("e", 1.0, key="ann")]
    order = []
    while line:
        first, *line = debts.line(line)
        order.append(first.name)
        debts.charge(first, 2.0)
    assert order == ["a", "e", "b", "c", "d"]


def test_debts_expire_and_are_bounded() -> None:
    debts = Debts()
    for second in range(100):
        debts.charge(asked("a", 0.0, key="eve", load=50.0), float(second))
    assert debts.turn(asked("b", 99.0, key="eve")) == (99.0 + LONGEST_DEBT, "eve")
    for number in range(100):
        debts.charge(asked("a", 1000.0, key=str(number), load=1.0), 1000.0 + 2.0 * number)
    assert len(debts._until) == 1


def test_model_of_several_keys_has_the_turn_of_the_first() -> None:
    debts = Debts()
    debts.charge(asked("x", 0.0, key="eve", load=10.0), 0.0)
    both = Asked("b", (1,), 5.0, (Waiter("eve", 1.0), Waiter("ann", 4.0)))
    assert debts.turn(both) == (4.0, "ann")


requests = st.lists(
    st.builds(
        Request,
        st.floats(0, 60),
        st.sampled_from("abcd"),
        st.floats(0.1, 5),
        st.sampled_from(["ann", "eve"]),
    ),
    min_size=1,
    max_size=40,
).map(lambda made: sorted(made, key=lambda one: one.at))
LOADS = {"a": 1.0, "b": 2.0, "c": 4.0, "d": 8.0}
ANSWER, LOAD = 5.0, 8.0  # the longest
SWAP_WAIT = 10.0


@given(requests, st.integers(1, 3))
def test_every_request_is_answered_in_bounded_time(made: list[Request], room: int) -> None:
    """Each of the other models may go first once, later ones than it if their key owes less."""
    world = run(made, LOADS, room, slotproxy(SWAP_WAIT), slots=100)
    assert len(world.waits) == len(made)
    turn = max(SWAP_WAIT, LOAD) + ANSWER + LOAD
    assert max(wait for _, wait in world.waits) <= len(LOADS) * turn + LONGEST_DEBT


@given(st.integers(0, 20))
def test_requests_of_one_key_do_not_starve_another(seed: int) -> None:
    made = [one for one in crowd(100, seed) if one.key == "agent"]
    made = sorted([*made, Request(20.0, "b", 1.0, "ann")], key=lambda one: one.at)
    world = run(made, {"a": 8.0, "b": 5.0}, 1, slotproxy(SWAP_WAIT))
    (wait,) = [wait for one, wait in world.waits if one.key == "ann"]
    assert wait <= SWAP_WAIT + 4.0 + 5.0 + 0.5  # of which answers under way take 4 s, its load 5 s
    starving = run(made, {"a": 8.0, "b": 5.0}, 1, llama_swap([frozenset("a"), frozenset("b")]))
    (long,) = [wait for one, wait in starving.waits if one.key == "ann"]
    assert long > 2 * wait  # which the simulator can tell


def test_documented_comparison_is_that_of_the_simulator() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "models.md"
    assert report() in page.read_text("utf-8")


@pytest.mark.parametrize("room", [1, 2])
def test_collated_requests_take_fewer_loads_than_requests(room: int) -> None:
    made = [Request(0.5 * number, "abc"[number % 3], 1.0) for number in range(60)]
    loads = run(made, {"a": 2.0, "b": 2.0, "c": 2.0}, room, slotproxy(SWAP_WAIT)).loads
    assert loads <= 20
