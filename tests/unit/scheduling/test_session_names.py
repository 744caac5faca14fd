from __future__ import annotations

from proxy.scheduling.knowledge import Pool
from proxy.scheduling.prefix import Chain
from proxy.scheduling.state import Conversation, Want


def _want(session: str, group: str = "") -> Want:
    return Want("m", Chain(), session=session, group=group)


def test_session_of_any_length_is_kept_as_a_digest() -> None:
    pool = Pool()
    for number in range(50):
        want = _want("x" * 1_000_000 + str(number))
        pool.began(want, pool.conversation(want), 1.0)
    assert all(type(name) is bytes and len(name) == 16 for name in pool.conversations)


def test_session_is_found_again_in_its_own_group() -> None:
    pool = Pool()
    conversation = Conversation(group="a")
    pool.began(_want("mine", "a"), conversation, 1.0)
    assert pool.conversation(_want("mine", "a")) is conversation
    assert pool.conversation(_want("mine", "b")) is not conversation
    assert pool.conversation(_want("\ud800", "a")) is not conversation
