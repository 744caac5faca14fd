"""Models of a router with little memory take turns."""

from __future__ import annotations

import pytest

from proxy.backends.router import SETTLE, SHORTEST, Turns

A, B, C = "a", "b", "c"


def asked(turns: Turns, model: str, present: list[str], *, now: float, turn: float = 0.0) -> bool:
    """A new request for a model. It gives up if it may not be sent."""
    sent = turns.take(model, present, now, turn)
    if not sent:
        turns.give_up(model)
    return sent


def answer(turns: Turns, model: str, *, now: float) -> None:
    """A request for a loaded model, answered whole."""
    assert asked(turns, model, [model], now=now)
    turns.answered(model, now)
    turns.leave(model, now)


def test_requests_for_loaded_model_start_at_once() -> None:
    turns = Turns(1)
    assert all(asked(turns, A, [A], now=0.0) for _ in range(100))


def test_request_for_another_model_is_sent_once_the_loaded_one_is_idle() -> None:
    turns = Turns(1)
    assert asked(turns, B, [A], now=0.0)  # nobody uses A here
    turns.leave(B, 0.0)
    assert asked(turns, A, [A], now=1.0)
    assert not asked(turns, B, [A], now=1.0)
    turns.leave(A, 2.0)
    assert not asked(turns, B, [A], now=2.0 + SETTLE / 2)  # between two requests of a client
    assert asked(turns, B, [A], now=2.0 + SETTLE)


@pytest.mark.parametrize("load", [0.0, 30.0])
def test_loaded_model_is_held_back_after_a_turn_as_long_as_a_load(load: float) -> None:
    turns, turn = Turns(1), max(load, SHORTEST)
    answer(turns, A, now=0.0)
    assert asked(turns, A, [A], now=0.1)
    assert not turns.take(B, [A], 0.1, load)
    assert asked(turns, A, [A], now=turn, turn=load)
    assert not asked(turns, A, [A], now=turn + 0.1, turn=load)


def test_model_has_its_turn_however_long_others_waited_while_it_was_loaded() -> None:
    turns = Turns(1)
    assert asked(turns, A, [], now=0.0)  # loads for 20 seconds
    assert not turns.take(B, [], 0.0)
    turns.answered(A, 20.0)
    assert asked(turns, A, [A], now=20.0 + SHORTEST - 0.1)
    assert not asked(turns, A, [A], now=20.0 + SHORTEST)
    assert not turns.take(B, [A], 20.0 + SHORTEST)
    for _ in range(2):
        turns.leave(A, 23.0)
    assert turns.take(B, [A], 23.0 + SETTLE)


def test_request_behind_one_that_changes_the_model_waits_for_its_turn() -> None:
    """The router's list tells of the change only later."""
    turns = Turns(1)
    answer(turns, A, now=0.0)
    assert asked(turns, B, [A], now=1.0)
    assert not turns.take(A, [A], 1.1)
    assert asked(turns, B, [A], now=1.2)  # the other requests for B go with the first
    turns.answered(B, 2.0)
    turns.answered(B, 2.0)
    assert not turns.take(A, [B], 2.0)
    for _ in range(2):
        turns.leave(B, 2.5)
    assert turns.take(A, [B], 2.5 + SETTLE)


def test_request_that_gives_up_holds_no_other_back() -> None:
    turns = Turns(1)
    answer(turns, A, now=0.0)
    assert asked(turns, A, [A], now=0.1)
    assert not turns.take(B, [A], 0.1)
    assert not asked(turns, A, [A], now=5.0)
    turns.give_up(B)
    assert asked(turns, A, [A], now=5.0)


def test_no_request_is_held_back_while_there_is_room() -> None:
    turns = Turns(2)
    assert asked(turns, B, [A], now=0.0)
    assert asked(turns, A, [A], now=100.0)
    unlimited = Turns(0)
    assert asked(unlimited, A, [A, B], now=0.0)
    assert asked(unlimited, C, [A, B], now=0.0)
    assert asked(unlimited, A, [A, B], now=100.0)


def test_idle_models_wait_until_the_list_shows_which_one_ended() -> None:
    turns = Turns(2)
    for model in (A, B):
        assert asked(turns, model, [A, B], now=0.0)
        turns.leave(model, 1.0)
    assert asked(turns, C, [A, B], now=5.0)
    assert not asked(turns, A, [A, B], now=5.1)
    assert not asked(turns, B, [A, B], now=5.1)
    assert asked(turns, A, [A, C], now=6.0)


def test_models_are_held_back_until_one_of_them_is_idle() -> None:
    turns = Turns(2)
    for model in (A, B):
        assert asked(turns, model, [A, B], now=0.0)
        turns.answered(model, 0.0)
    assert not turns.take(C, [A, B], 0.1)
    assert not asked(turns, A, [A, B], now=9.0)
    assert not asked(turns, B, [A, B], now=9.0)
    turns.leave(B, 9.0)
    assert turns.take(C, [A, B], 9.0 + SETTLE)
    assert asked(turns, A, [A, B], now=9.5)
