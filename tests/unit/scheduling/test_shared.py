"""Replicas that apply the same log, without Redis: agreement, snapshots and expired members."""

from __future__ import annotations

import contextlib
import pickle

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import NoBackend, QueueFull
from proxy.scheduling.lease import Lease, Outcome, Ticket
from proxy.scheduling.prefix import Chain, chain_of
from proxy.scheduling.shared import ops, snapshot
from proxy.scheduling.shared.ops import Op
from proxy.scheduling.shared.replica import OpResult, Replica, SharedRules
from proxy.scheduling.state import (
    BackendFacts,
    SlotRequest,
)
from proxy.scheduling.view import View

from .fakes import ended

SYSTEM = "The system prompt of many users. " * 2000
RULES = SharedRules("1", max_queue=8, groups=True, disk=1 << 20)
FACTS = BackendFacts(model="m", slots=2)


def enqueued(
    number: int, text: str = "hello", is_retry: bool = False, **more: object
) -> ops.Enqueue:
    chain = chain_of(text, (len(text),), str(more.get("group", "")))
    request = SlotRequest(model="m", max_tokens=16, chain=chain, **more)  # type: ignore[arg-type]
    return ops.enqueue(number, request, is_retry)


def apply(replica: Replica, now: float, member: str, *written: Op) -> list[OpResult]:
    """Applies operations as they are read from the log, encoded and decoded."""
    return replica.apply(now, member, ops.decode(ops.encode(list(written))))


def view_of(replica: Replica) -> View:
    return replica.scheduler.view("", "")


def states(replica: Replica) -> list[str]:
    return [slot.state for backend in view_of(replica).backends for slot in backend.slots]


def new_replica(facts: BackendFacts = FACTS) -> Replica:
    replica = Replica(RULES)
    for member in "AB":
        apply(replica, 1000.0, member, ops.BackendFound("b", True, facts))
    return replica


def test_log_contains_no_prompt_or_session_text() -> None:
    written = ops.encode([enqueued(1, "a secret of mine", session="my session")])
    assert b"secret" not in written
    assert b"my session" not in written


def _brief(told: OpResult) -> object:
    value = told.value
    if isinstance(value, Lease):
        return value.backend, value.slot.id, value.grant.cached, value.waited
    return value.first_place if isinstance(value, Ticket) else str(value)


def test_expired_member_loses_its_slots_and_queue_places() -> None:
    replica = new_replica()
    apply(replica, 1001.0, "A", enqueued(1, "one"), enqueued(2, "two"), enqueued(3, "three"))
    apply(replica, 1001.0, "B", enqueued(1, "four"))
    assert states(replica) == ["busy", "busy"]
    told = []
    for now in range(1002, 1010):
        told += apply(replica, float(now), "B", ops.Heartbeat())
    assert [(one.member, type(one.value)) for one in told] == [("B", Lease)]
    assert states(replica).count("busy") == 1
    assert [*replica.members] == ["B"]
    # A member that returns after its expiry has no lease left to release.
    apply(replica, 1011.0, "A", ops.Release(1, Outcome(end="whole")))
    assert states(replica).count("busy") == 1
    assert replica.members["A"].backends == {}


def test_members_do_not_expire_while_the_log_stands_still() -> None:
    replica = new_replica()
    apply(replica, 1001.0, "A", enqueued(1, "one"))
    apply(replica, 1030.0, "B", ops.Heartbeat())
    assert states(replica).count("busy") == 1
    apply(replica, 1031.0, "A", ops.Release(1, ended(0, 10)))
    assert states(replica).count("busy") == 0


def test_records_of_all_requests_share_the_names_of_keys_and_groups() -> None:
    """Each entry is decoded with a copy of its own, which thousands of conversations would keep."""
    replica = new_replica()
    requests = [
        lease.request
        for number in (1, 2)
        for result in apply(replica, 1001.0, "A", enqueued(number, "hi", key="k", group="a group"))
        if isinstance(lease := result.value, Lease)
    ]
    one, other = requests
    assert one.group is other.group and one.key is other.key


def test_joining_member_keeps_cached_prompts_and_backend_restart_drops_them() -> None:
    replica = new_replica()
    apply(replica, 1001.0, "A", enqueued(1, "one"))
    apply(replica, 1002.0, "A", ops.Release(1, ended(0, 10)))

    def known() -> int:
        return sum(slot.tokens > 0 for one in view_of(replica).backends for slot in one.slots)

    assert known() == 1
    apply(replica, 1003.0, "C", ops.BackendFound("b", None, BackendFacts(model="default", slots=0)))
    apply(replica, 1003.0, "C", ops.BackendFound("b", True, FACTS))
    assert known() == 1
    apply(replica, 1004.0, "C", ops.BackendHealth("b", False))
    assert view_of(replica).backends[0].up  # other members still reach it
    apply(replica, 1005.0, "C", ops.BackendFound("b", True, FACTS))
    assert known() == 0


def test_backend_is_down_or_removed_only_when_all_members_agree() -> None:
    replica = new_replica()
    for member, up in (("A", True), ("B", False)):
        apply(replica, 1001.0, member, ops.BackendHealth("b", False))
        assert view_of(replica).backends[0].up is up
    (told,) = apply(replica, 1002.0, "A", enqueued(1))
    assert isinstance(told.value, NoBackend)
    apply(replica, 1003.0, "A", ops.Drain("b"))
    assert len(view_of(replica).backends) == 1
    apply(replica, 1003.0, "B", ops.Drain("b"))
    assert view_of(replica).backends == []


def test_full_queue_is_shared_fairly_between_keys_of_all_members() -> None:
    """A joining replica decides alike: the snapshot marks returning requests."""
    replica = new_replica()
    for number in range(10):
        apply(replica, 1001.0, "AB"[number % 2], enqueued(number, f"text {number}", key="greedy"))
    apply(replica, 1001.0, "A", enqueued(10, "text 10", is_retry=True, key="greedy"))
    joined = snapshot.load(snapshot.dump(replica), RULES)
    for one in (replica, joined):
        told = apply(one, 1002.0, "B", enqueued(11, "text 11", key="modest"))
        (modest, greedy) = told
        assert (modest.member, modest.id) == ("B", 11) and isinstance(modest.value, Ticket)
        assert (greedy.member, greedy.id) == ("B", 9) and isinstance(greedy.value, QueueFull)
        assert "in favor of another key" in greedy.value.message
        assert one.scheduler.waiting == 9


def test_snapshot_load_rejects_everything_but_msgpack() -> None:
    replica = new_replica()
    apply(replica, 1001.0, "A", enqueued(1, "one"), enqueued(2, "two"), enqueued(3, "three"))
    whole = snapshot.dump(replica)
    assert view_of(snapshot.load(whole, RULES)) == view_of(replica)
    garbage = [b"", b"\x80", b"\x91\x02", b"\xc1" * 9, pickle.dumps({"a": 1}), whole[:-1]]
    other = msgspec.msgpack.decode(whole)
    garbage.append(msgspec.msgpack.encode([other[0] + 1, "something", "else"]))
    for data in garbage:
        with pytest.raises(ValueError, match="not a valid snapshot"):
            snapshot.load(data, RULES)
    with pytest.raises(ValueError, match="another version"):
        snapshot.load(garbage[-1], RULES)


def test_snapshot_keeps_order_of_cached_prompts() -> None:
    """Of slots that hold the same prefix, the first may be the one that is chosen."""
    replica = new_replica(BackendFacts(model="m", slots=4))
    system = "the same system prompt " * 60
    for number, ask in enumerate("dacb"):
        text = system + ask * 99
        chain = chain_of(text, (len(system), len(text)))
        request = SlotRequest(model="m", max_tokens=16, chain=chain)
        apply(replica, 1001.0, "A", ops.enqueue(number, request, False))
    for number in (2, 0, 3, 1):
        apply(replica, 1002.0, "A", ops.Release(number, ended(-1, 400)))
    is_retry = chain_of(system, (len(system),))

    def holders(one: Replica) -> list[int]:
        (pool,) = one.scheduler.pools.values()
        return [held.slot.id for held, _ in pool.matches(is_retry) if held.slot is not None]

    # In the order of their release; slot 0 is put back, so it is last.
    first = replica.scheduler.pools["m"].backends["b"].slots[0].held
    assert first is not None
    replica.scheduler.pools["m"].drop(first)
    replica.scheduler.pools["m"].put(first)
    assert holders(replica) == [2, 3, 1, 0]
    assert holders(snapshot.load(snapshot.dump(replica), RULES)) == [2, 3, 1, 0]


def test_snapshot_keeps_which_requests_are_parked() -> None:
    def question(number: int) -> ops.Enqueue:
        text = f"{SYSTEM}question {number}"
        chain = chain_of(text, (len(SYSTEM), len(text)))
        return ops.enqueue(number, SlotRequest(model="m", max_tokens=16, chain=chain), False)

    first = new_replica(BackendFacts(model="m", slots=4))
    apply(first, 1001.0, "A", *map(question, range(5)))
    second = snapshot.load(snapshot.dump(first), RULES)
    parked = [[ticket.parked_for for ticket in one.scheduler.queue] for one in (first, second)]
    assert parked[0] == parked[1] and any(parked[0])
    over = ops.Release(0, ended(0, 16000))
    told = [apply(replica, 1001.5, "A", over) for replica in (first, second)]
    assert [_brief(one) for one in told[0]] == [_brief(one) for one in told[1]]
    assert [type(one.value) for one in told[0]] == [Lease]
    assert view_of(first) == view_of(second)


@given(st.data())
def test_corrupted_snapshot_raises_only_value_error(data: st.DataObject) -> None:
    replica = new_replica()
    apply(replica, 1001.0, "A", enqueued(1, "one"), enqueued(2, "two"), enqueued(3, "three"))
    whole = bytearray(snapshot.dump(replica))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        snapshot.load(bytes(whole), RULES)


def test_decoded_chain_is_checked() -> None:
    broken = enqueued(1)
    msgspec.structs.force_setattr(broken.request, "chain", Chain((b"link",), (), 1))
    with pytest.raises(msgspec.ValidationError, match="chain is invalid"):
        ops.decode(ops.encode([broken]))


def test_log_entry_that_fails_does_not_stop_the_next(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = new_replica()
    monkeypatch.setattr(replica, "_update_health", None)
    apply(replica, 1001.0, "A", ops.BackendHealth("b", True), enqueued(2, "fine"))
    assert "unhandled exception while applying BackendHealth" in caplog.text
    assert 2 in replica.members["A"].leases
