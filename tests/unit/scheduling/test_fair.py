"""The fair queue."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.scheduling.fair import FairQueue, displaced


class T:
    def __init__(self, name: str, began: float = 0.0, key: str = "", again: bool = False) -> None:
        self.name, self.began, self.tag = name, began, 0.0
        self.key, self.again = key, again


def _drain(queue: FairQueue[T]) -> list[str]:
    names = []
    while len(queue):
        first = next(iter(queue))
        queue.served(first)
        names.append(first.name)
    return names


def test_a_key_that_asks_once_does_not_wait_behind_one_that_asks_ten_times() -> None:
    queue: FairQueue[T] = FairQueue()
    for n in range(10):
        queue.push(T(f"greedy{n}", n), "greedy", 100)
    queue.push(T("modest", 11), "modest", 100)
    assert _drain(queue).index("modest") <= 1


def test_tokens_count_not_requests() -> None:
    queue: FairQueue[T] = FairQueue()
    for n in range(4):
        queue.push(T(f"big{n}", n), "big", 1000)
        queue.push(T(f"small{n}", n), "small", 100)
    assert _drain(queue)[:5].count("big0") == 1
    assert all(name.startswith("small") for name in _drain_after(queue))


def _drain_after(queue: FairQueue[T]) -> list[str]:
    for n in range(3):
        queue.push(T(f"big{n}", n), "big", 1000)
    for n in range(6):
        queue.push(T(f"small{n}", n), "small", 100)
    return [name for name in _drain(queue)[1:7] if not name.startswith("big0")]


def test_a_larger_share_is_faster_and_starves_nobody() -> None:
    queue: FairQueue[T] = FairQueue()
    for n in range(8):
        queue.push(T(f"low{n}", n), "a", 100)
        queue.push(T(f"high{n}", n), "b", 100 / 4)
    names = _drain(queue)
    assert [n[:3] for n in names[:6]].count("hig") == 5 or names[:6].count("low0") == 1
    assert "low1" in names[:8]


def test_one_that_had_its_turn_is_next() -> None:
    queue: FairQueue[T] = FairQueue()
    for n in range(3):
        queue.push(T(f"t{n}", n), "k", 100)
    queue.push(T("again", -1), "k", 100, again=True)
    assert _drain(queue)[0] == "again"


def test_places_are_counted_from_one() -> None:
    queue: FairQueue[T] = FairQueue()
    tickets = [T(f"t{n}", n) for n in range(3)]
    for ticket in tickets:
        queue.push(ticket, "k", 10)
    assert [queue.place(t) for t in tickets] == [1, 2, 3]
    queue.remove(tickets[0])
    assert [queue.place(t) for t in tickets] == [0, 1, 2]


def _waiting(names: str) -> list[T]:
    """A ticket a letter, of the key with that letter; a capital one had its turn before."""
    return [T(f"{n}", n, name.lower(), name.isupper()) for n, name in enumerate(names)]


@pytest.mark.parametrize(
    ("waiting", "key", "leaves"),
    [
        ("aaaa", "b", "3"),  # the newest of the key with most
        ("abab", "c", "3"),  # of two with as many, the newest of both
        ("aabaa", "b", "4"),
        ("aab", "b", None),  # a change of places would change nothing
        ("ab", "c", None),
        ("aaaa", "a", None),
        ("", "a", None),
        ("aaAA", "b", "1"),  # an answer that may have begun is not cut for another
        ("AAA", "b", None),
    ],
)
def test_a_full_queue_makes_room_from_the_key_with_most(
    waiting: str, key: str, leaves: str | None
) -> None:
    ticket = displaced(_waiting(waiting), key)
    assert (ticket.name if ticket is not None else None) == leaves


@given(st.lists(st.sampled_from("abcd"), min_size=8, max_size=60))
def test_keys_that_keep_asking_share_a_full_queue_equally(asking: list[str]) -> None:
    most = 7
    queue: list[T] = []
    for number, key in enumerate([*asking, *"abcd" * most]):
        ticket = displaced(queue, key) if len(queue) == most else None
        if ticket is not None:
            queue.remove(ticket)
        if len(queue) < most:
            queue.append(T(f"{number}", number, key))
    held = [sum(ticket.key == key for ticket in queue) for key in "abcd"]
    assert max(held) - min(held) <= 1
