"""The shared table without Redis: replicas that apply the same log, snapshots, and the dead."""

from __future__ import annotations

import contextlib
import pickle
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.task import Task
from proxy.errors import NoBackend, QueueFull
from proxy.scheduling.lease import Lease, Outcome
from proxy.scheduling.prefix import Chains
from proxy.scheduling.shared import ops, snapshot
from proxy.scheduling.shared.ops import Facts, Op
from proxy.scheduling.shared.replica import LEASE, Replica, Rules, Told
from proxy.scheduling.state import Backend, Grant, Held, Slot, Step, Want
from proxy.scheduling.ticket import Ticket
from proxy.scheduling.view import View

RULES = Rules("1", max_queue=8, groups=True, disk=1 << 20)
FACTS = Facts("m", 2)
CHAINS = Chains()


def come(number: int, text: str = "hello", again: bool = False, **more: object) -> ops.Come:
    chain = CHAINS.chain(text, (len(text),), str(more.get("group", "")))
    want = Want("m", Task(prompt=text, max_tokens=16), chain=chain, **more)  # type: ignore[arg-type]
    return ops.come(number, want, again)


def apply(replica: Replica, now: float, member: str, *written: Op) -> list[Told]:
    """As they come out of the log."""
    return replica.apply(now, member, ops.decode(ops.encode(list(written))))


def seen(replica: Replica) -> View:
    return replica.scheduler.view("", "")


def states(replica: Replica) -> list[str]:
    return [slot.state for backend in seen(replica).backends for slot in backend.slots]


def begun(facts: Facts = FACTS) -> Replica:
    replica = Replica(RULES)
    for member in "AB":
        apply(replica, 1000.0, member, ops.Found("b", True, facts))
    return replica


def test_nothing_of_a_text_is_written() -> None:
    written = ops.encode([come(1, "a secret of mine", session="my session")])
    assert b"secret" not in written
    assert b"my session" not in written


def test_whoever_reads_the_same_log_comes_to_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """At random, with snapshots in between: one replica lives through all, others join late."""
    for seed in range(12):
        _at_random(random.Random(seed))
    assert "a defect" not in caplog.text


def _at_random(draw: random.Random) -> None:
    facts = Facts("m", 3, 1.0, draw.random() < 0.7, draw.choice(["nothing", "ram", "files"]), 0.02)
    first = Replica(RULES)
    others = [first]
    now, number = 1000.0, 0
    under_way: list[tuple[str, int, Lease | Ticket]] = []
    apply(first, now, "A", ops.Found("b0", True, facts))
    apply(first, now, "A", ops.Found("b1", True, facts))
    for _ in range(300):
        now += draw.expovariate(3)
        if draw.random() < 0.01:
            now += 2 * LEASE
        member = draw.choice("ABC")
        mine = [one for one in under_way if one[0] == member]
        written: list[Op] = []
        what = draw.random()
        if what < 0.45:
            number += 1
            text = f"conversation {draw.randrange(12)} " * draw.randrange(1, 60)
            written.append(come(number, text, key=draw.choice("kl"), group=draw.choice("gh")))
        elif mine and what < 0.8:
            one = draw.choice(mine)
            under_way.remove(one)
            if isinstance(one[2], Lease):
                written += [
                    ops.Steps(one[1]),
                    ops.Stepped(one[1], Step("save", "x"), 10, 100, 0.1),
                    ops.Flows(one[1], draw.randrange(3)),
                    ops.Ends(one[1]),
                ]
                end = draw.choice(["whole", "whole", "cut", "busy", "failed"])
                outcome = Outcome(end, draw.randrange(3), 50, 10, 9, 0.1)  # type: ignore[arg-type]
                written.append(ops.Back(one[1], outcome))
            else:
                written.append(ops.Leave(one[1]))
        elif what < 0.9:
            written.append(ops.Down("b1", draw.random() < 0.5))
        elif what < 0.93:
            written.append(ops.Found("b1", True, facts, draw.random() < 0.3))
        elif what < 0.94:
            written.append(ops.Bye())
            under_way = [one for one in under_way if one[0] != member]
        else:
            written.append(ops.Beat())
        told = [apply(one, now, member, *written) for one in others]
        for one in told[0]:
            if isinstance(one.news, Lease | Ticket):
                under_way = [u for u in under_way if u[:2] != (one.member, one.id)]
                under_way.append((one.member, one.id, one.news))
        briefs = [[(t.member, t.id, _brief(t)) for t in one] for one in told]
        assert all(one == briefs[0] for one in briefs)
        assert all(seen(one) == seen(first) for one in others)
        if draw.random() < 0.02:
            others.append(snapshot.load(snapshot.dump(draw.choice(others)), RULES))
    assert len(others) > 1


def _brief(told: Told) -> object:
    news = told.news
    if isinstance(news, Lease):
        return news.backend, news.slot.id, news.grant.cached, news.waited
    return news.first_place if isinstance(news, Ticket) else str(news)


def test_the_dead_give_their_slots_back_and_lose_their_places() -> None:
    replica = begun()
    apply(replica, 1001.0, "A", come(1, "one"), come(2, "two"), come(3, "three"))
    apply(replica, 1001.0, "B", come(1, "four"))
    assert states(replica) == ["busy", "busy"]
    told = []
    for now in range(1002, 1010):
        told += apply(replica, float(now), "B", ops.Beat())
    assert [(one.member, type(one.news)) for one in told] == [("B", Lease)]
    assert states(replica).count("busy") == 1
    assert [*replica.members] == ["B"]
    # Who comes back from the dead has nothing to give back.
    apply(replica, 1011.0, "A", ops.Back(1, Outcome("whole")))
    assert states(replica).count("busy") == 1
    assert replica.members["A"].backends == {}


def test_nobody_is_dead_when_the_log_stood_still() -> None:
    replica = begun()
    apply(replica, 1001.0, "A", come(1, "one"))
    apply(replica, 1030.0, "B", ops.Beat())
    assert states(replica).count("busy") == 1
    apply(replica, 1031.0, "A", ops.Back(1, Outcome("whole", 0, 10, 0, 5)))
    assert states(replica).count("busy") == 0


def test_who_joins_does_not_make_the_others_forget_and_who_saw_it_down_does() -> None:
    replica = begun()
    apply(replica, 1001.0, "A", come(1, "one"))
    apply(replica, 1002.0, "A", ops.Back(1, Outcome("whole", 0, 10, 0, 5)))

    def known() -> int:
        return sum(slot.tokens > 0 for one in seen(replica).backends for slot in one.slots)

    assert known() == 1
    apply(replica, 1003.0, "C", ops.Found("b", None, Facts("default", 0)))
    apply(replica, 1003.0, "C", ops.Found("b", True, FACTS))
    assert known() == 1
    apply(replica, 1004.0, "C", ops.Down("b", False))
    assert seen(replica).backends[0].up  # the others still find it up
    apply(replica, 1005.0, "C", ops.Found("b", True, FACTS))
    assert known() == 0


def test_a_backend_is_down_when_all_find_it_so_and_gone_when_all_have_drained_it() -> None:
    replica = begun()
    for member, up in (("A", True), ("B", False)):
        apply(replica, 1001.0, member, ops.Down("b", False))
        assert seen(replica).backends[0].up is up
    (told,) = apply(replica, 1002.0, "A", come(1))
    assert isinstance(told.news, NoBackend)
    apply(replica, 1003.0, "A", ops.Drain("b"))
    assert len(seen(replica).backends) == 1
    apply(replica, 1003.0, "B", ops.Drain("b"))
    assert seen(replica).backends == []


def test_the_queues_bound_is_one_for_all() -> None:
    replica = begun()
    told = [
        one for n in range(11) for one in apply(replica, 1001.0, "AB"[n % 2], come(n, f"text {n}"))
    ]
    assert sum(isinstance(one.news, Lease) for one in told) == 2
    assert sum(isinstance(one.news, Ticket) for one in told) == 8
    assert isinstance(told[-1].news, QueueFull)


def test_queue_is_shared_between_keys_of_all_workers() -> None:
    """A joining replica decides alike: who came again is in the snapshot."""
    replica = begun()
    for number in range(10):
        apply(replica, 1001.0, "AB"[number % 2], come(number, f"text {number}", key="greedy"))
    apply(replica, 1001.0, "A", come(10, "text 10", again=True, key="greedy"))
    joined = snapshot.load(snapshot.dump(replica), RULES)
    for one in (replica, joined):
        told = apply(one, 1002.0, "B", come(11, "text 11", key="modest"))
        (modest, greedy) = told
        assert (modest.member, modest.id) == ("B", 11) and isinstance(modest.news, Ticket)
        assert (greedy.member, greedy.id) == ("B", 9) and isinstance(greedy.news, QueueFull)
        assert "made room for another key" in greedy.news.message
        assert one.scheduler.waiting == 9


def test_snapshot_is_msgpack_and_nothing_else_is_read() -> None:
    replica = begun()
    apply(replica, 1001.0, "A", come(1, "one"), come(2, "two"), come(3, "three"))
    whole = snapshot.dump(replica)
    assert seen(snapshot.load(whole, RULES)) == seen(replica)
    garbage = [b"", b"\x80", b"\x91\x02", b"\xc1" * 9, pickle.dumps({"a": 1}), whole[:-1]]
    other = msgspec.msgpack.decode(whole)
    garbage.append(msgspec.msgpack.encode([other[0] + 1, "something", "else"]))
    for data in garbage:
        with pytest.raises(ValueError, match="no snapshot"):
            snapshot.load(data, RULES)
    with pytest.raises(ValueError, match="another version"):
        snapshot.load(garbage[-1], RULES)


def test_snapshot_keeps_the_order_of_what_is_held() -> None:
    """The first of those that hold the same beginning may be the one that decides."""
    replica = begun(Facts("m", 4))
    system = "the same system prompt " * 60
    for number, ask in enumerate("dacb"):
        text = system + ask * 99
        chain = CHAINS.chain(text, (len(system), len(text)))
        want = Want("m", Task(prompt=text, max_tokens=16), chain=chain)
        apply(replica, 1001.0, "A", ops.come(number, want, False))
    for number in (2, 0, 3, 1):
        apply(replica, 1002.0, "A", ops.Back(number, Outcome("whole", -1, 400, 0, 5, 0.1)))
    again = CHAINS.chain(system, (len(system),))

    def holders(one: Replica) -> list[int]:
        (pool,) = one.scheduler.records[0].values()
        return [held.slot.id for held, _ in pool.matches(again) if held.slot is not None]

    # Slots in another order than their numbers: 0 is taken anew, so it is the last.
    first = replica.scheduler.records[0]["m"].backends["b"].slots[0].held
    assert first is not None
    replica.scheduler.records[0]["m"].drop(first)
    replica.scheduler.records[0]["m"].put(first)
    assert holders(replica) == [1, 2, 3, 0]
    assert holders(snapshot.load(snapshot.dump(replica), RULES)) == [1, 2, 3, 0]


@given(st.data())
def test_no_change_of_a_snapshot_breaks_the_reader(data: st.DataObject) -> None:
    replica = begun()
    apply(replica, 1001.0, "A", come(1, "one"), come(2, "two"), come(3, "three"))
    whole = bytearray(snapshot.dump(replica))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        snapshot.load(bytes(whole), RULES)


@pytest.mark.parametrize(
    ("record", "kind", "elsewhere"),
    [
        (snapshot._Backend, Backend, {"reserved"}),
        (snapshot._Slot, Slot, set()),
        (snapshot._Held, Held, set()),
        (snapshot._Grant, Grant, set()),
        (snapshot._Want, Want, {"task", "views", "ids", "max_tokens"}),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_snapshot_leaves_no_field_of_a_record_out(
    record: type[msgspec.Struct], kind: type[msgspec.Struct], elsewhere: set[str]
) -> None:
    assert {*record.__struct_fields__} ^ {*kind.__struct_fields__} == elsewhere


def test_an_entry_that_fails_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    replica = begun()
    bad = msgspec.structs.replace(come(1), turn=99, ends=())
    apply(replica, 1001.0, "A", bad, come(2, "fine"))
    assert "a defect in applying Come" in caplog.text
    assert 2 in replica.members["A"].leases
