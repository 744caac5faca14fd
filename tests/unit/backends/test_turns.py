"""Models of a router with little memory take turns."""

from __future__ import annotations

from proxy.backends.turns import SHORTEST, Turns

A, B, C = "a", "b", "c"


def test_requests_for_loaded_model_start_at_once() -> None:
    turns = Turns(1)
    assert all(turns.take(A, [A], now=0.0) for _ in range(100))


def test_request_for_another_model_goes_to_the_routers_queue() -> None:
    turns = Turns(1)
    assert turns.take(A, [A], now=0.0)
    assert turns.take(B, [A], now=0.0)


def test_loaded_model_is_held_back_after_its_turn() -> None:
    turns = Turns(1)
    assert turns.take(A, [A], now=0.0)
    assert turns.take(B, [A], now=10.0)
    assert turns.take(A, [A], now=10.0 + SHORTEST - 0.1)
    assert not turns.take(A, [A], now=10.0 + SHORTEST)


def test_turn_lasts_as_long_as_a_load() -> None:
    turns = Turns(1)
    turns.take(B, [A], now=0.0)
    assert turns.take(A, [A], now=29.0, turn=30.0)
    assert not turns.take(A, [A], now=30.0, turn=30.0)


def test_next_turn_starts_when_models_have_changed() -> None:
    turns = Turns(1)
    turns.take(B, [A], now=0.0)
    assert not turns.take(A, [A], now=5.0)
    turns.answered(B, now=6.0)  # now it is loaded
    assert turns.take(A, [B], now=6.0)  # queued by the router
    assert turns.take(B, [B], now=7.0)
    assert not turns.take(B, [B], now=6.0 + SHORTEST)


def test_cancelled_request_holds_no_other_back() -> None:
    turns = Turns(1)
    turns.take(B, [A], now=0.0)
    assert not turns.take(A, [A], now=5.0)
    turns.leave(B, answered=False)
    assert turns.take(A, [A], now=5.0)


def test_no_request_is_held_back_while_there_is_room() -> None:
    turns = Turns(2)
    turns.take(B, [A], now=0.0)
    assert turns.take(A, [A], now=100.0)
    unlimited = Turns(0)
    unlimited.take(C, [A, B], now=0.0)
    assert unlimited.take(A, [A, B], now=100.0)


def test_only_model_with_fewest_requests_is_held_back() -> None:
    turns = Turns(2)
    assert turns.take(A, [A, B], now=0.0)
    assert turns.take(A, [A, B], now=0.0)
    assert turns.take(B, [A, B], now=0.0)
    assert turns.take(C, [A, B], now=0.0)
    assert turns.take(A, [A, B], now=9.0)
    assert not turns.take(B, [A, B], now=9.0)


def test_request_gets_its_turn_when_its_model_was_just_evicted() -> None:
    turns = Turns(1)
    assert turns.take(B, [B], now=0.0)  # loaded, as far as we knew
    assert turns.take(A, [A], now=1.0)
    assert not turns.take(A, [A], now=SHORTEST)
