"""The fair queue."""

from __future__ import annotations

import pytest

from proxy.scheduling.fair import FairQueue, displaced
from proxy.scheduling.lease import Ticket
from proxy.scheduling.scheduler import LocalScheduler
from proxy.scheduling.state import ConversationRecord, SlotRequest

OWNER = LocalScheduler(lambda: 0.0)


def made(name: str, began: float = 0.0, key: str = "", is_retry: bool = False) -> Ticket:
    return Ticket(OWNER, SlotRequest(model=name, key=key), ConversationRecord(), began, is_retry)


def _drain(queue: FairQueue) -> list[str]:
    names = []
    while len(queue):
        first = next(iter(queue))
        queue.served(first)
        names.append(first.request.model)
    return names


def test_single_request_of_a_key_passes_ten_requests_of_another() -> None:
    queue = FairQueue()
    for n in range(10):
        queue.push(made(f"greedy{n}", n), "greedy", 100)
    queue.push(made("modest", 11), "modest", 100)
    assert _drain(queue).index("modest") <= 1


def test_fair_share_is_measured_in_tokens_not_requests() -> None:
    queue = FairQueue()
    for n in range(4):
        queue.push(made(f"big{n}", n), "big", 1000)
        queue.push(made(f"small{n}", n), "small", 100)
    assert _drain(queue)[:5].count("big0") == 1


def test_larger_share_is_served_faster_without_starving_others() -> None:
    queue = FairQueue()
    for n in range(8):
        queue.push(made(f"low{n}", n), "a", 100)
        queue.push(made(f"high{n}", n), "b", 100 / 4)
    names = _drain(queue)
    assert [n[:3] for n in names[:6]].count("hig") == 5 or names[:6].count("low0") == 1
    assert "low1" in names[:8]


def test_returning_request_is_served_next() -> None:
    queue = FairQueue()
    for n in range(3):
        queue.push(made(f"t{n}", n), "k", 100)
    queue.push(made("again", -1), "k", 100, is_retry=True)
    assert _drain(queue)[0] == "again"


def _waiting(names: str) -> list[Ticket]:
    """One ticket per letter, of the key with that letter; a capital marks a returning request."""
    return [made(f"{n}", n, name.lower(), name.isupper()) for n, name in enumerate(names)]


@pytest.mark.parametrize(
    ("waiting", "key", "leaves"),
    [
        ("aaaa", "b", "3"),  # the newest of the key with most requests
        ("abab", "c", "3"),  # two keys with equally many: the newest of both
        ("aabaa", "b", "4"),
        ("aab", "b", None),  # displacing would only swap the two keys
        ("ab", "c", None),
        ("aaaa", "a", None),
        ("", "a", None),
        ("aaAA", "b", "1"),  # a returning request may have begun its answer
        ("AAA", "b", None),
    ],
)
def test_full_queue_displaces_newest_request_of_the_busiest_key(
    waiting: str, key: str, leaves: str | None
) -> None:
    ticket = displaced(_waiting(waiting), key)
    assert (ticket.request.model if ticket is not None else None) == leaves
