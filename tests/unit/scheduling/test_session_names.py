from __future__ import annotations

from proxy.scheduling.pool import Pool
from proxy.scheduling.state import ConversationRecord, SlotRequest


def _want(session: str, group: str = "") -> SlotRequest:
    return SlotRequest(model="m", session=session, group=group)


def test_session_names_are_stored_as_digests() -> None:
    pool = Pool()
    for number in range(50):
        want = _want("x" * 1_000_000 + str(number))
        pool.record_turn(want, pool.conversation(want), 1.0)
    assert len(pool.sessions.main) == 50
    assert all(type(name) is bytes and len(name) == 16 for name in pool.sessions.main)


def test_session_is_found_only_in_its_own_group() -> None:
    pool = Pool()
    conversation = ConversationRecord(group="a")
    pool.record_turn(_want("mine", "a"), conversation, 1.0)
    assert pool.conversation(_want("mine", "a")) is conversation
    assert pool.conversation(_want("mine", "b")) is not conversation
    assert pool.conversation(_want("\ud800", "a")) is not conversation
