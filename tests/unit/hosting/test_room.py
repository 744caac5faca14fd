"""Models that do not fit together: who gives way, and when. Servers are small programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from typing import Any

import pytest

from proxy.config.validators import each_in_bytes
from proxy.errors import BadRequest, UpstreamTimeout
from proxy.hosting import memory_budget
from proxy.hosting import model as model_module
from proxy.hosting.memory_budget import Limits, MemoryBudget
from proxy.hosting.model import HostedModel
from proxy.hosting.need import Cards
from tests.fakes import wait_until

from . import fakes

Make = Callable[..., list[HostedModel]]
LONG = 60.0  # seconds in which no test ends


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Factory for models named a, b, …, of these sizes in MiB, in one room."""
    monkeypatch.setattr(memory_budget, "LOOK", 0.02)
    monkeypatch.setattr(model_module, "SETTLE", 0.0)
    made: list[HostedModel] = []

    def models(
        *sizes: int,
        memory: int = 0,
        most: int = 0,
        swap_wait: float = LONG,
        pin: tuple[str, ...] = (),
        unloads: Mapping[str, str] = {},
        beside: Mapping[str, Sequence[str]] = {},
        cards: tuple[str, ...] = (),
        gpu_memory: str = "",
    ) -> list[HostedModel]:
        card = Cards(each_in_bytes(gpu_memory))
        room = MemoryBudget(Limits(memory << 20, most, card.totals), swap_wait)
        for name, size, on_card in zip_longest("abcdef", sizes, cards, fillvalue=""):
            if size:
                fields: dict[str, Any] = {
                    "memory": f"{size}MiB",
                    "gpu_memory": on_card,
                    "pin": name in pin,
                    "unloads": tuple(unloads.get(name, "")),
                    "beside": tuple(map(tuple, beside.get(name, ()))),
                }
                made.append(fakes.hosted(room=room, name=name, cards=card, **fields))
        return made

    yield models
    for model in made:
        model.close()
    for model in made:
        model.join(60)


def used(model: HostedModel) -> None:
    """One request, from start to end."""
    fakes.use(model)
    model.leave(answered=True)


def takes(model: HostedModel, seconds: float) -> None:
    model.needs.learn(seconds)


def loaded(models: list[HostedModel]) -> str:
    return "".join(model.name for model in models if model.status == "loaded")


@pytest.mark.parametrize(
    ("options", "order", "stay"),
    [
        ({"memory": 30}, "abc", "abc"),  # what fits
        ({"memory": 20}, "abac", "ac"),  # those used last
        ({"memory": 20}, "abacb", "bc"),
        ({"most": 1}, "abcabc", "c"),
        ({"memory": 20, "pin": ("a",)}, "abc", "ac"),
    ],
)
def test_idle_models_give_way(make: Make, options: dict[str, Any], order: str, stay: str) -> None:
    models = make(10, 10, 10, **options)
    for name in order:
        used(models["abc".index(name)])
    assert loaded(models) == stay


def test_busy_model_stays_until_its_answer_is_over(make: Make, pool: ThreadPoolExecutor) -> None:
    a, b = models = make(10, 10, memory=10)
    fakes.use(a)
    waiting = pool.submit(used, b)
    wait_until(lambda: b.status == "loading")
    used(a)  # others are still served
    assert loaded(models) == "a"
    a.leave(answered=True)
    waiting.result(60)
    assert loaded(models) == "b"


def test_steady_traffic_gives_way_after_swap_wait(
    make: Make, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = models = make(10, 10, memory=10, swap_wait=0.1)
    # It may stay as long as its load took: here longer than its request needs to find it loaded.
    monkeypatch.setattr(b.needs, "learn", lambda seconds: None)
    fakes.use(a)
    waiting = pool.submit(used, b)
    wait_until(lambda: a.leaving)
    held_back = pool.submit(used, a)
    wait_until(lambda: len(a._waiters) == 1)
    assert loaded(models) == "a"
    a.leave(answered=True)
    waiting.result(60)
    held_back.result(60)
    assert loaded(models) == "a"  # loaded again for the request held back
    assert b.lost


def test_line_is_in_order_of_arrival(make: Make, pool: ThreadPoolExecutor) -> None:
    a, b, c = make(10, 10, 10, memory=10)
    order: list[str] = []
    fakes.use(a)

    def serve(model: HostedModel) -> None:
        fakes.use(model)
        order.append(model.name)
        model.leave(answered=True)

    waits = []
    for model in (b, c):
        waits.append(pool.submit(serve, model))
        wait_until(lambda m=model: m.status == "loading")  # type: ignore[misc]
    a.leave(answered=True)
    for wait in waits:
        wait.result(60)
    assert order == ["b", "c"]


def test_waiting_requests_are_told_their_place_and_time(
    make: Make, pool: ThreadPoolExecutor
) -> None:
    a, b, c = make(10, 10, 10, memory=10, swap_wait=30.0)
    assert a.notice() == "loading a"
    fakes.use(a)
    assert a.notice() == ""
    for model in (b, c):
        pool.submit(used, model)
        wait_until(lambda m=model: m.status == "loading")  # type: ignore[misc]
    wait_until(lambda: c.place()[0] == 2)
    assert b.notice() == "loading b, place 1"
    takes(c, 7.0)
    assert c.notice() in [f"loading c, place 2, about {left} s" for left in range(30, 43)]
    a.leave(answered=True)


@pytest.mark.parametrize(
    ("sizes", "options", "why"),
    [
        ((2048, 10), {"memory": 1024}, r"model a does not fit: it needs about 2\.0 GiB"),
        (
            (10,),
            {"cards": ("0KiB,3GiB",), "gpu_memory": "9GiB,2GiB"},
            r"needs about 3\.0 GiB of graphics card 1, .* 2\.0 GiB \(--gpu-memory\)",
        ),
        ((600, 600), {"memory": 1024, "pin": ("b",)}, r"of which pinned models take 0\.6"),
    ],
)
def test_model_that_can_never_fit_is_refused_by_name(
    make: Make, sizes: tuple[int, ...], options: dict[str, Any], why: str
) -> None:
    a, *others = make(*sizes, **options)
    for other in others:
        used(other)
    with pytest.raises(BadRequest, match=why) as caught:
        fakes.use(a)
    assert (caught.value.code, caught.value.param) == ("model_too_large", "model")
    assert loaded(others) == "b"[: len(others)]


def test_models_share_graphics_cards(make: Make) -> None:
    a, b, c = models = make(10, 10, 10, cards=("6GiB", "6GiB", "4GiB"), gpu_memory="10GiB")
    used(a)
    used(b)  # only one fits on the card
    assert loaded(models) == "b"
    used(c)
    assert loaded(models) == "bc"


def test_model_whose_requests_left_makes_nobody_give_way(make: Make) -> None:
    a, b, c = models = make(10, 10, 10, memory=10)
    fakes.use(a)
    with pytest.raises(UpstreamTimeout):
        fakes.use(b, patience=0.1)
    wait_until(lambda: b.status == "unloaded")
    a.leave(answered=True)
    assert loaded(models) == "a"
    used(c)  # the line is free
    assert loaded(models) == "c"


@pytest.mark.parametrize(
    ("order", "stay"),
    [
        ("abc", "bc"),  # a and b swap, c is beside them
        ("cab", "b"),  # c gave way to a, and not b to c
        ("cbdb", "bd"),
    ],
)
def test_models_unload_those_of_their_settings(make: Make, order: str, stay: str) -> None:
    models = make(1, 1, 1, 1, unloads={"a": "bc", "b": "ac"})
    for name in order:
        used(next(model for model in models if model.name == name))
    wait_until(lambda: loaded(models) == stay)


@pytest.mark.parametrize(
    ("order", "stay"),
    [
        ("abc", "bc"),  # a, b and c never together: the one that was used longest ago ends
        ("acb", "bc"),
        ("bad", "d"),  # d is in no set with others
        ("da", "a"),
    ],
)
def test_models_stay_together_as_their_sets_say(make: Make, order: str, stay: str) -> None:
    beside = {"a": ("b", "c"), "b": ("a", "c"), "c": ("a", "b"), "d": ("",)}
    models = make(1, 1, 1, 1, beside=beside)
    for name in order:
        used(next(model for model in models if model.name == name))
    wait_until(lambda: loaded(models) == stay)
