"""Models of a router with little room take turns."""

from __future__ import annotations

from proxy.backends.turns import SHORTEST, Turns

A, B, C = "a", "b", "c"


def test_requests_for_a_loaded_model_go_at_once() -> None:
    turns = Turns(1)
    assert all(turns.take(A, [A], now=0.0) for _ in range(100))


def test_a_request_for_another_model_goes_to_the_routers_queue() -> None:
    turns = Turns(1)
    assert turns.take(A, [A], now=0.0)
    assert turns.take(B, [A], now=0.0)


def test_the_loaded_model_is_held_back_after_a_turn() -> None:
    turns = Turns(1)
    assert turns.take(A, [A], now=0.0)
    assert turns.take(B, [A], now=10.0)
    assert turns.take(A, [A], now=10.0 + SHORTEST - 0.1)
    assert not turns.take(A, [A], now=10.0 + SHORTEST)


def test_a_turn_is_as_long_as_a_load() -> None:
    turns = Turns(1)
    turns.take(B, [A], now=0.0)
    assert turns.take(A, [A], now=29.0, turn=30.0)
    assert not turns.take(A, [A], now=30.0, turn=30.0)


def test_the_next_turn_begins_when_the_models_have_changed() -> None:
    turns = Turns(1)
    turns.take(B, [A], now=0.0)
    assert not turns.take(A, [A], now=5.0)
    turns.answered(B, now=6.0)  # it is loaded
    assert turns.take(A, [B], now=6.0)  # queued by the router
    assert turns.take(B, [B], now=7.0)
    assert not turns.take(B, [B], now=6.0 + SHORTEST)


def test_a_client_that_gives_up_holds_nobody_back() -> None:
    turns = Turns(1)
    turns.take(B, [A], now=0.0)
    assert not turns.take(A, [A], now=5.0)
    turns.leave(B, answered=False)
    assert turns.take(A, [A], now=5.0)


def test_nobody_is_held_back_while_there_is_room() -> None:
    turns = Turns(2)
    turns.take(B, [A], now=0.0)
    assert turns.take(A, [A], now=100.0)
    unlimited = Turns(0)
    unlimited.take(C, [A, B], now=0.0)
    assert unlimited.take(A, [A, B], now=100.0)


def test_only_the_model_with_the_fewest_requests_is_held_back() -> None:
    turns = Turns(2)
    assert turns.take(A, [A, B], now=0.0)
    assert turns.take(A, [A, B], now=0.0)
    assert turns.take(B, [A, B], now=0.0)
    assert turns.take(C, [A, B], now=0.0)
    assert turns.take(A, [A, B], now=9.0)
    assert not turns.take(B, [A, B], now=9.0)


def test_a_request_whose_model_was_evicted_on_the_way_has_its_turn() -> None:
    turns = Turns(1)
    assert turns.take(B, [B], now=0.0)  # loaded, as far as we knew
    assert turns.take(A, [A], now=1.0)
    assert not turns.take(A, [A], now=SHORTEST)
