"""A cancel: every callback once, whoever cancels, whenever it was added."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from proxy.runtime.cancel import Cancel


def test_callbacks_are_called_once_and_in_order() -> None:
    cancel, calls = Cancel(), list[str]()
    cancel.add(lambda: calls.append("a"))
    cancel.add(lambda: calls.append("b"))
    cancel.cancel()
    cancel.cancel()
    assert cancel.cancelled and calls == ["a", "b"]


def test_callback_added_after_cancel_is_called_at_once() -> None:
    cancel, calls = Cancel(), list[str]()
    cancel.cancel()
    cancel.add(lambda: calls.append("late"))
    assert calls == ["late"]


def test_removed_callback_is_not_called() -> None:
    cancel, calls = Cancel(), list[str]()

    def callback() -> None:
        calls.append("never")

    cancel.add(callback)
    cancel.remove(callback)
    cancel.remove(callback)
    cancel.cancel()
    assert not calls


def race() -> list[int]:
    """The calls when two threads add while two others cancel."""
    cancel, calls = Cancel(), list[int]()
    ready = threading.Barrier(4)

    def add(first: int) -> None:
        ready.wait()
        for number in range(first, first + 5):
            cancel.add(partial(calls.append, number))

    def stop() -> None:
        ready.wait()
        cancel.cancel()

    work: list[Callable[[], None]] = [partial(add, 0), partial(add, 10), stop, stop]
    threads = [threading.Thread(target=step) for step in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(calls)


def test_callback_added_during_cancel_is_called_once() -> None:
    for _ in range(200):
        assert race() == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]
