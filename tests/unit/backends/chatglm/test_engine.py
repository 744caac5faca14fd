"""The engine's loop, driven order by order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from queue import Queue, SimpleQueue
from typing import Any

import pytest

from proxy.backends.chatglm.engine import serve
from proxy.backends.chatglm.protocol import (
    Began,
    Broken,
    CancelMessage,
    Delta,
    Done,
    Generate,
    Load,
    Order,
    PromptMessage,
    Ready,
    Refused,
    Report,
)
from tests.unit.backends.chatglm.fakes import FakeModel


def generate(number: int, text: str = "ab", max_tokens: int | None = None, **more: Any) -> Generate:
    values = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "repeat_penalty": 1.0} | more
    return Generate(id=number, prompt=PromptMessage(text=text), max_tokens=max_tokens, **values)


class Bench:
    """An engine, order by order."""

    def __init__(self, open_model: Callable[[str, int], object]) -> None:
        self._orders: SimpleQueue[Order] = SimpleQueue()
        self._reports: Queue[Report] = Queue()
        serving = partial(serve, Load("m.bin"), self._orders, self._reports.put, open_model)  # type: ignore[arg-type]
        threading.Thread(target=serving, daemon=True).start()

    def send(self, *orders: Order) -> None:
        for order in orders:
            self._orders.put(order)

    def receive(self) -> Report:
        return self._reports.get(timeout=10)

    def until(self, kind: type) -> list[Report]:
        """All reports up to the first of `kind`."""
        out = [self.receive()]
        while not isinstance(out[-1], kind):
            out.append(self.receive())
        return out


class Held:
    """A pause in a generation that the test ends."""

    def __init__(self) -> None:
        self.go, self._went = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self._went.set()
        assert self.go.wait(60)

    def reached(self) -> None:
        assert self._went.wait(60)


def start(model: FakeModel) -> Bench:
    engine = Bench(lambda path, n_ctx: model)
    assert engine.receive() == Ready(model.family, model.n_ctx, "fake")
    return engine


def timeless(report: object) -> object:
    if not isinstance(report, Done):
        return report
    return Done(report.id, report.reason, report.tokens, 0, 0)


def test_answer_ends_by_itself() -> None:
    model = FakeModel("你好")
    peer = start(model)
    peer.send(generate(7))
    got = [timeless(one) for one in peer.until(Done)]
    assert got == [
        Began(7, 2),
        Delta(7, "你", 1),
        Delta(7, "好", 2),
        Done(7, "stop", 3, 0, 0),
    ]
    # Each token is evaluated once: all of the prompt first, then the last token alone.
    assert model.steps == [(2, 0, 2), (3, 2, 2), (4, 3, 2)]


@pytest.mark.parametrize(("asked", "given"), [(0, 0), (1, 1), (5, 5), (None, 62), (1000, 62)])
def test_max_tokens_is_limited_by_request_and_context(asked: int | None, given: int) -> None:
    peer = start(FakeModel(endless=True, n_ctx=64))
    peer.send(generate(1, "ab", asked))
    done = peer.until(Done)[-1]
    assert isinstance(done, Done)
    assert (done.reason, done.tokens) == ("length", given)


def test_cancelled_answer_ends_between_two_tokens() -> None:
    held = Held()
    model = FakeModel(endless=True, pause=held, n_ctx=10_000)
    peer = start(model)
    peer.send(generate(1))
    held.reached()
    peer.send(CancelMessage(1), generate(2, "c", 1))
    held.go.set()
    done = peer.until(Done)[-1]
    assert timeless(done) == Done(2, "length", 1, 0, 0)
    assert len(model.steps) < 12


def test_queued_answer_can_be_cancelled() -> None:
    held = Held()
    peer = start(FakeModel("ab", pause=held))
    peer.send(generate(1))
    held.reached()
    peer.send(generate(2), CancelMessage(2), generate(3))
    held.go.set()
    ends = [peer.until(Done)[-1], peer.until(Done)[-1]]
    assert [one.id for one in ends if isinstance(one, Done)] == [1, 3]


@pytest.mark.parametrize("error", [ValueError("range"), IndexError(), MemoryError()])
def test_library_error_during_generation_fails_only_its_answer(error: Exception) -> None:
    model = FakeModel("abc")
    steps = iter([None, error])

    def pause() -> None:
        if (found := next(steps, None)) is not None:
            raise found

    model.pause = pause
    peer = start(model)
    peer.send(generate(1), generate(2))
    assert [type(one) for one in peer.until(Refused)] == [Began, Delta, Refused]
    assert timeless(peer.until(Done)[-1]) == Done(2, "stop", 4, 0, 0)


def test_turn_header_is_reported_where_calls_are_parsed() -> None:
    for marks, text in ((True, "a<|assistant|>b"), (False, "ab")):
        peer = start(FakeModel("a\1b"))
        peer.send(generate(1, marks=marks))
        got = peer.until(Done)
        assert "".join(one.text for one in got if isinstance(one, Delta)) == text


@pytest.mark.parametrize("error", [RuntimeError("bad magic"), MemoryError(), ImportError("no")])
def test_model_that_cannot_be_loaded_is_reported(error: Exception) -> None:
    def open_model(path: str, n_ctx: int) -> FakeModel:
        raise error

    broken = Bench(open_model).until(Broken)[-1]
    assert isinstance(broken, Broken)
    assert type(error).__name__ in broken.reason
