"""Requests that wait for a limit take turns by key, and see their place."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from proxy.accounts.limiting.allowance import LimitService
from proxy.accounts.limiting.limiter import LocalLimiter, Refused, Taken
from proxy.accounts.limiting.lines import LimitLines, LimitPlace, LimitTicket
from proxy.accounts.limiting.meters import MICROSECONDS
from proxy.accounts.limiting.plan import Size
from proxy.accounts.limits import Limited, Limits, Quantity, Window
from proxy.errors import Cancelled, LimitReached, QueueFull, QueueTimeout
from proxy.runtime.cancel import Cancel

LINE = "team lab", "requests/minute"


class Time:
    """A clock that only a waiting request moves on."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def microseconds(self) -> int:
        return int(self.seconds * MICROSECONDS)


class Counting(LocalLimiter):
    """A limiter that counts how often it is asked."""

    asked = 0

    def take(self, charges: Any, gauges: Any) -> Taken | Refused:
        self.asked += 1
        return super().take(charges, gauges)


class Scene:
    """Requests of keys of a team, stepped one after the other: none of them sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, most: int = 512) -> None:
        self.time = Time()
        self.limiter = Counting(self.time.microseconds)
        self.service = LimitService(self.limiter, patience=3600, most_waiting=most, clock=self.time)
        self.waits: dict[str, Iterator[LimitPlace]] = {}
        self.done: list[str] = []
        self.places: dict[str, LimitPlace] = {}
        monkeypatch.setattr(threading.Event, "wait", lambda *_: None)

    def begin(
        self,
        name: str,
        *limits: tuple[str, Limits],
        size: Size | None = None,
        share: float = 1.0,
        cancel: Cancel | None = None,
    ) -> None:
        """A request is named after its key and a number, such as a1."""
        limited = tuple(Limited(subject, one) for subject, one in limits)
        allowance = self.service.allowance(limited, name[0], share=share)
        self.waits[name] = allowance.admit(size or Size(), "m", cancel or Cancel())
        self.step(name)

    def step(self, name: str) -> None:
        try:
            self.places[name] = next(self.waits[name])
        except StopIteration:
            self.done.append(name)
            del self.waits[name]

    def pass_time(self, seconds: float) -> None:
        self.time.seconds += seconds
        for _ in range(3):
            for name in tuple(self.waits):
                self.step(name)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def a_minute(most: int, quantity: Quantity = "requests") -> Limits:
    return Limits(windows=(Window(quantity, "minute", most),), on_limit="wait")


def test_keys_of_a_team_take_turns(scene: Scene) -> None:
    team = "team lab", a_minute(1)
    for name in ("x1", "a1", "a2", "a3", "b1", "c1", "b2"):
        scene.begin(name, team)
    assert scene.done == ["x1"]
    for _ in range(6):
        scene.pass_time(60.1)
    assert scene.done == ["x1", "a1", "b1", "c1", "a2", "b2", "a3"]
    assert not scene.service.lines


def test_key_of_a_higher_class_gets_a_larger_share(scene: Scene) -> None:
    team = "team lab", a_minute(1)
    for name in ("x1", "a1", "a2", "a3", "b1", "b2", "b3", "b4"):
        scene.begin(name, team, share=4.0 if name[0] == "b" else 1.0)
    for _ in range(5):
        scene.pass_time(60.1)
    assert scene.done == ["x1", "a1", "b1", "b2", "b3", "b4"]


def test_large_request_is_not_overtaken_by_small_ones(scene: Scene) -> None:
    team = "team lab", a_minute(100, "tokens")
    scene.begin("x1", team, size=Size(100))
    scene.begin("a1", team, size=Size(90))
    scene.pass_time(30)
    scene.begin("b1", team, size=Size(10))
    assert scene.done == ["x1"]
    scene.pass_time(24.1)
    assert scene.done == ["x1", "a1"]
    scene.pass_time(6)
    assert scene.done == ["x1", "a1", "b1"]


def test_request_that_waits_for_its_own_limit_does_not_hold_up_its_team(scene: Scene) -> None:
    team = "team lab", a_minute(60)
    scene.begin("a1", ("key a", a_minute(1)), team)
    scene.begin("a2", ("key a", a_minute(1)), team)
    scene.begin("b1", ("key b", a_minute(9)), team)
    assert scene.done == ["a1", "b1"]


def test_request_waits_for_one_limit_after_the_other(scene: Scene) -> None:
    key, team = ("key a", a_minute(2)), ("team lab", a_minute(1))
    scene.begin("a1", key, team)
    scene.begin("a2", key, team)
    scene.begin("b1", team)
    scene.begin("a3", key, team)
    for _ in range(3):
        scene.pass_time(60.1)
    assert scene.done == ["a1", "a2", "b1", "a3"]


def test_place_and_estimate_are_told(scene: Scene) -> None:
    team = "team lab", a_minute(2)
    for name in ("x1", "x2", "a1", "b1", "c1"):
        scene.begin(name, team)
    scene.pass_time(0)
    assert [scene.places[name].place for name in ("a1", "b1", "c1")] == [1, 2, 3]
    told = [scene.places[name].seconds for name in ("a1", "b1", "c1")]
    assert told == [pytest.approx(at, abs=0.2) for at in (30, 60, 90)]
    (first, *_), mine = list(scene.service.lines.waiting("a")), scene.service.lines.waiting("b")
    assert (first.place, first.model, first.mine) == (1, "m", True)
    assert [one.mine for one in mine] == [False, True, False]


def test_only_the_first_asks_and_only_when_it_may_be_let_through(scene: Scene) -> None:
    team = "team lab", a_minute(1)
    for name in ("x1", "a1", "b1", "c1"):
        scene.begin(name, team)
    asked = scene.limiter.asked
    for _ in range(50):
        scene.pass_time(1)
    assert scene.limiter.asked <= asked + 1
    assert len(scene.service.lines) == 3


def test_returned_tokens_let_the_first_ask_at_once(scene: Scene) -> None:
    team = ("team lab", a_minute(100, "tokens"))
    limited = (Limited(*team),)
    held = scene.service.allowance(limited, "x").admit(Size(100), "m", Cancel())
    with pytest.raises(StopIteration) as end:
        next(held)
    scene.begin("a1", team, size=Size(50))
    scene.pass_time(0.1)
    end.value.value.close()
    scene.pass_time(0.05)
    assert scene.done == ["a1"]


def test_client_that_leaves_gives_its_place_to_the_next(scene: Scene) -> None:
    team, cancel = ("team lab", a_minute(1)), Cancel()
    scene.begin("x1", team)
    scene.begin("a1", team, cancel=cancel)
    scene.begin("b1", team)
    cancel.cancel()
    with pytest.raises(Cancelled):
        next(scene.waits.pop("a1"))
    scene.pass_time(0)
    assert scene.places["b1"].place == 1
    scene.waits.pop("b1").close()  # type: ignore[attr-defined]
    assert not scene.service.lines


def test_waiting_ends_with_patience(scene: Scene) -> None:
    team = "team lab", a_minute(1)
    scene.begin("x1", team)
    scene.service.patience = 10
    scene.begin("a1", team)
    scene.time.seconds += 10
    with pytest.raises(QueueTimeout):
        for _ in range(3):
            next(scene.waits["a1"])
    assert not scene.service.lines


def test_full_line_makes_room_for_a_key_with_fewer_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene(monkeypatch, most=3)
    team = "team lab", a_minute(1)
    for name in ("x1", "a1", "a2", "a3"):
        scene.begin(name, team)
    with pytest.raises(QueueFull):
        scene.begin("a4", team)
    del scene.waits["a4"]
    scene.begin("b1", team)
    with pytest.raises(QueueFull):
        next(scene.waits.pop("a3"))
    scene.pass_time(60.1)
    scene.pass_time(60.1)
    assert scene.done == ["x1", "a1", "b1"]


def test_request_that_can_never_be_let_through_is_refused(scene: Scene) -> None:
    team = "team lab", a_minute(100, "tokens")
    scene.begin("x1", team, size=Size(100))
    with pytest.raises(LimitReached):
        scene.begin("a1", team, size=Size(101))
    assert not scene.service.lines


def test_ticket_waits_in_one_line_at_a_time() -> None:
    lines, ticket = LimitLines(9), LimitTicket("a", {LINE: 1.0})
    lines.join(ticket, LINE)
    lines.join(ticket, LINE)
    lines.join(ticket, ("key a", "tokens/day"))
    assert len(lines) == 1
    assert lines.first_of([LINE]) is None
    lines.leave(ticket)
    lines.leave(ticket)
    assert not lines
    assert lines.place(ticket) == LimitPlace(0)
