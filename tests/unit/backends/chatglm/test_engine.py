"""The engine's loop, driven frame by frame."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.backends.chatglm import protocol
from proxy.backends.chatglm.protocol import (
    Began,
    Broken,
    ByeMessage,
    CancelMessage,
    Decode,
    Delta,
    DoneMessage,
    Encode,
    Encoded,
    Generate,
    Load,
    PromptMessage,
    ReadingMessage,
    Ready,
    RefusedMessage,
)
from tests.unit.backends.chatglm.fakes import FakeHost, FakeModel, Peer


def generate(number: int, text: str = "ab", max_tokens: int | None = None, **more: Any) -> Generate:
    values = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "repeat_penalty": 1.0} | more
    return Generate(id=number, prompt=PromptMessage(text=text), max_tokens=max_tokens, **values)


class Bench:
    """Engines that end with the test."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "m.bin"
        self.file.write_bytes(b"x" * 100)
        self._hosts: list[FakeHost] = []

    def host(
        self, model: FakeModel, idle: float = 0.0, opens: Callable[[], object] = lambda: None
    ) -> FakeHost:
        """An engine that calls `opens` before it is ready."""

        def open_model(path: str, n_ctx: int) -> FakeModel:
            opens()
            return model

        self._hosts.append(FakeHost(Load(str(self.file), 0, idle), open_model))
        return self._hosts[-1]

    def start(self, model: FakeModel, idle: float = 0.0) -> Peer:
        peer = Peer(self.host(model, idle).sock)
        assert peer.receive() == ReadingMessage(100, 100)
        assert peer.receive() == ready(model)
        return peer

    def refuse(self, error: Exception, name: str = "m.bin") -> Peer:
        def open_model(path: str, n_ctx: int) -> FakeModel:
            raise error

        self._hosts.append(FakeHost(Load(str(self.file.with_name(name))), open_model))
        return Peer(self._hosts[-1].sock)

    def alive(self) -> bool:
        return self._hosts[-1].alive

    def end(self) -> None:
        for host in self._hosts:
            host.crash()
            host.end()


class Held:
    """A pause in a generation that the test ends."""

    def __init__(self) -> None:
        self.go, self._went = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self._went.set()
        assert self.go.wait(60)

    def reached(self) -> None:
        assert self._went.wait(60)


def ready(model: FakeModel) -> Ready:
    return Ready(model.family, model.n_ctx, model.vocabulary, "fake", os.getpid())


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    one = Bench(tmp_path)
    yield one
    one.end()


def timeless(report: object) -> object:
    return (
        DoneMessage(report.id, report.reason, report.tokens, 0, 0)
        if isinstance(report, DoneMessage)
        else report
    )


def test_answer_ends_by_itself(bench: Bench) -> None:
    model = FakeModel("你好")
    peer = bench.start(model)
    peer.send(generate(7))
    got = [timeless(one) for one in peer.until(DoneMessage)]
    assert got == [
        Began(7, 2),
        Delta(7, "你", 1),
        Delta(7, "好", 2),
        DoneMessage(7, "stop", 3, 0, 0),
    ]
    # Each token is evaluated once: all of the prompt first, then the last token alone.
    assert model.steps == [(2, 0, 2), (3, 2, 2), (4, 3, 2)]


@pytest.mark.parametrize(("asked", "given"), [(0, 0), (1, 1), (5, 5), (None, 62), (1000, 62)])
def test_max_tokens_is_limited_by_request_and_context(
    bench: Bench, asked: int | None, given: int
) -> None:
    peer = bench.start(FakeModel(endless=True, n_ctx=64))
    peer.send(generate(1, "ab", asked))
    done = peer.until(DoneMessage)[-1]
    assert isinstance(done, DoneMessage)
    assert (done.reason, done.tokens) == ("length", given)


def test_prompt_beyond_the_context_is_refused(bench: Bench) -> None:
    peer = bench.start(FakeModel("x", n_ctx=8))
    peer.send(generate(1, "a" * 8))
    assert peer.receive() == RefusedMessage(1, "context", "", 8, 8)
    peer.send(generate(2, "a" * 7))
    assert peer.until(DoneMessage)[0] == Began(2, 7)


def test_cancelled_answer_ends_between_two_tokens(bench: Bench) -> None:
    held = Held()
    peer = bench.start(FakeModel(endless=True, pause=held, n_ctx=10_000))
    peer.send(generate(1))
    held.reached()
    peer.send(CancelMessage(1), generate(2, "c", 1))
    held.go.set()
    done = peer.until(DoneMessage)[-1]
    assert isinstance(done, DoneMessage)
    assert done.reason == "cancelled"
    assert done.tokens < 10
    assert timeless(peer.until(DoneMessage)[-1]) == DoneMessage(2, "length", 1, 0, 0)


def test_queued_answer_can_be_cancelled(bench: Bench) -> None:
    held = Held()
    peer = bench.start(FakeModel("ab", pause=held))
    peer.send(generate(1))
    held.reached()
    peer.send(generate(2), CancelMessage(2))
    held.go.set()
    ends = [peer.until(DoneMessage)[-1], peer.until(DoneMessage)[-1]]
    assert {(one.id, one.reason) for one in ends if isinstance(one, DoneMessage)} == {
        (1, "stop"),
        (2, "cancelled"),
    }


def test_token_ids_outside_the_vocabulary_are_refused(bench: Bench) -> None:
    peer = bench.start(FakeModel())
    peer.send(Decode(1, (0x110000,)))
    assert peer.receive() == RefusedMessage(1, "tokens")


@pytest.mark.parametrize("error", [ValueError("range"), IndexError(), MemoryError()])
def test_library_error_during_generation_fails_only_its_answer(
    bench: Bench, error: Exception
) -> None:
    model = FakeModel("abc")
    steps = iter([None, error])

    def pause() -> None:
        if (found := next(steps, None)) is not None:
            raise found

    model.pause = pause
    peer = bench.start(model)
    peer.send(generate(1), generate(2))
    assert [type(one) for one in peer.until(RefusedMessage)] == [Began, Delta, RefusedMessage]
    assert timeless(peer.until(DoneMessage)[-1]) == DoneMessage(2, "stop", 4, 0, 0)


def test_garbage_on_the_wire_ends_the_engine(bench: Bench) -> None:
    peer = bench.start(FakeModel())
    peer.sock.sendall(b"\0\0\0\1x")
    assert peer.sock.recv(1) == b""


def test_turn_header_is_reported_where_calls_are_parsed(bench: Bench) -> None:
    for marks, text in ((True, "a<|assistant|>b"), (False, "ab")):
        peer = bench.start(FakeModel("a\1b"))
        peer.send(generate(1, marks=marks))
        got = peer.until(DoneMessage)
        assert "".join(one.text for one in got if isinstance(one, Delta)) == text


@pytest.mark.parametrize("error", [RuntimeError("bad magic"), MemoryError(), ImportError("no")])
def test_model_that_cannot_be_loaded_is_reported(bench: Bench, error: Exception) -> None:
    peer = bench.refuse(error)
    broken = peer.until(Broken)[-1]
    assert isinstance(broken, Broken)
    assert type(error).__name__ in broken.reason


def test_missing_model_file_is_reported(bench: Bench) -> None:
    peer = bench.refuse(RuntimeError(), "other.bin")
    assert "FileNotFoundError" in str(peer.receive())


def test_two_connections_with_equal_request_numbers_get_their_own_answers(bench: Bench) -> None:
    held = Held()
    host = bench.host(FakeModel("ab", pause=held))
    first, second = Peer(host.sock), Peer(host.join())
    first.until(Ready)
    first.send(generate(1))
    held.reached()
    second.send(
        Encode(1, PromptMessage(text="hi"), plain=True), generate(2, "abc"), CancelMessage(1)
    )
    held.go.set()
    assert [type(one) for one in first.until(DoneMessage)] == [Began, Delta, Delta, DoneMessage]
    got = [timeless(one) for one in second.until(DoneMessage)]
    assert Encoded(1, (104, 105)) in got
    assert Began(2, 3) in got
    assert second.sock.close() is None


def test_closed_connection_cancels_only_its_answers(bench: Bench) -> None:
    held = Held()
    model = FakeModel(endless=True, pause=held, n_ctx=1 << 20)
    host = bench.host(model)
    first, second = Peer(host.sock), Peer(host.join())
    first.until(Ready)
    first.send(generate(1), generate(2))
    held.reached()
    second.send(generate(1, "ab", 3))
    first.sock.close()
    held.go.set()
    assert timeless(second.until(DoneMessage)[-1]) == DoneMessage(1, "length", 3, 0, 0)
    assert len(model.asked) == 2, "what the other had waiting was not begun"
    second.sock.close()


def test_late_connection_is_told_that_the_engine_is_ready(bench: Bench) -> None:
    model = FakeModel("ab")
    host = bench.host(model)
    Peer(host.sock).until(Ready)
    late = Peer(host.join())
    assert late.receive() == ready(model)
    late.send(generate(1))
    assert late.until(DoneMessage)
    host.sock.close()
    late.send(generate(2))
    assert late.until(DoneMessage), "it goes on for who is left"
    late.sock.close()
    bench.end()
    assert not bench.alive()


def test_connection_that_does_not_read_blocks_no_other(bench: Bench) -> None:
    text = "x" * 300_000
    model = FakeModel("ok")
    host = bench.host(model)
    lazy, other = Peer(host.sock), Peer(host.join())
    lazy.until(Ready)
    for number in range(20):
        lazy.send(Encode(number, PromptMessage(text=text), plain=True))
    other.send(generate(1))
    assert timeless(other.until(DoneMessage)[-1]) == DoneMessage(1, "stop", 3, 0, 0)
    got = [lazy.receive() for _ in range(20)]
    assert [one.id for one in got if isinstance(one, Encoded)] == [*range(20)]
    other.sock.close()


def test_connection_that_never_reads_is_closed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "BOUND", 1 << 20)
    host = bench.host(FakeModel("ok"))
    lazy, other = Peer(host.sock), Peer(host.join())
    lazy.until(Ready)
    with pytest.raises(BrokenPipeError):
        for number in range(100):
            lazy.send(Encode(number, PromptMessage(text="x" * 300_000), plain=True))
    other.send(generate(1))
    assert other.until(DoneMessage)
    other.sock.close()


def test_idle_model_is_unloaded_and_all_connections_are_told(bench: Bench) -> None:
    joined = Held()
    host = bench.host(FakeModel("ok"), idle=0.05, opens=joined)
    first, second = Peer(host.sock), Peer(host.join())
    joined.go.set()
    assert isinstance(first.until(ByeMessage)[-1], ByeMessage)
    assert isinstance(second.until(ByeMessage)[-1], ByeMessage)
    with pytest.raises(FileNotFoundError):
        host.join()
    second.sock.close()
