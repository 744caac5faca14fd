"""The engine's loop, spoken to frame by frame."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.backends.chatglm import peers
from proxy.backends.chatglm.protocol import (
    Began,
    Broken,
    Bye,
    Cancel,
    Decode,
    Decoded,
    Delta,
    Done,
    Encode,
    Encoded,
    Generate,
    Load,
    Prompt,
    Reading,
    Ready,
    Refused,
)
from tests.unit.backends.chatglm.fakes import FakeHost, FakeModel, Peer


def generate(number: int, text: str = "ab", max_tokens: int | None = None, **more: Any) -> Generate:
    values = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "repeat_penalty": 1.0} | more
    return Generate(number, Prompt(text=text), max_tokens, **values)


class Bench:
    """Engines, ended after the test."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "m.bin"
        self.file.write_bytes(b"x" * 100)
        self._hosts: list[FakeHost] = []

    def host(self, model: FakeModel, idle: float = 0.0) -> FakeHost:
        self._hosts.append(FakeHost(Load(str(self.file), 0, idle), lambda path, n_ctx: model))
        return self._hosts[-1]

    def start(self, model: FakeModel, idle: float = 0.0) -> Peer:
        peer = Peer(self.host(model, idle).sock)
        assert peer.receive() == Reading(100, 100)
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


def ready(model: FakeModel) -> Ready:
    return Ready(model.family, model.n_ctx, model.vocabulary, "fake", os.getpid())


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    one = Bench(tmp_path)
    yield one
    one.end()


def timeless(report: object) -> object:
    return (
        Done(report.id, report.reason, report.tokens, 0, 0) if isinstance(report, Done) else report
    )


def test_an_answer_ends_by_itself(bench: Bench) -> None:
    model = FakeModel("你好")
    peer = bench.start(model)
    peer.send(generate(7))
    got = [timeless(one) for one in peer.until(Done)]
    assert got == [Began(7, 2), Delta(7, "你", 1), Delta(7, "好", 2), Done(7, "stop", 3, 0, 0)]
    # Each token is evaluated once: all of the prompt first, then the last token alone.
    assert model.steps == [(2, 0, 2), (3, 2, 2), (4, 3, 2)]


@pytest.mark.parametrize(("asked", "given"), [(0, 0), (1, 1), (5, 5), (None, 62), (1000, 62)])
def test_new_tokens_are_what_was_asked_or_what_is_left(
    bench: Bench, asked: int | None, given: int
) -> None:
    peer = bench.start(FakeModel(endless=True, n_ctx=64))
    peer.send(generate(1, "ab", asked))
    done = peer.until(Done)[-1]
    assert isinstance(done, Done)
    assert (done.reason, done.tokens) == ("length", given)


def test_a_prompt_beyond_the_context_is_refused_whole(bench: Bench) -> None:
    peer = bench.start(FakeModel("x", n_ctx=8))
    peer.send(generate(1, "a" * 8))
    assert peer.receive() == Refused(1, "context", "", 8, 8)
    peer.send(generate(2, "a" * 7))
    assert peer.until(Done)[0] == Began(2, 7)


def test_a_cancelled_answer_ends_between_two_tokens(bench: Bench) -> None:
    go, went = threading.Event(), threading.Event()

    def pause() -> None:
        went.set()
        assert go.wait(10)

    peer = bench.start(FakeModel(endless=True, pause=pause, n_ctx=10_000))
    peer.send(generate(1))
    assert went.wait(10)
    peer.send(Cancel(1), generate(2, "c", 1))
    go.set()
    done = peer.until(Done)[-1]
    assert isinstance(done, Done)
    assert done.reason == "cancelled"
    assert done.tokens < 10
    assert timeless(peer.until(Done)[-1]) == Done(2, "length", 1, 0, 0)


def test_what_waits_can_be_cancelled_too(bench: Bench) -> None:
    go, went = threading.Event(), threading.Event()

    def pause() -> None:
        went.set()
        assert go.wait(10)

    peer = bench.start(FakeModel("ab", pause=pause))
    peer.send(generate(1))
    assert went.wait(10)
    peer.send(generate(2), Cancel(2))
    go.set()
    ends = [peer.until(Done)[-1], peer.until(Done)[-1]]
    assert {(one.id, one.reason) for one in ends if isinstance(one, Done)} == {
        (1, "stop"),
        (2, "cancelled"),
    }


def test_small_questions_are_answered_within_a_generation(bench: Bench) -> None:
    go, went = threading.Event(), threading.Event()

    def pause() -> None:
        went.set()
        assert go.wait(10)

    peer = bench.start(FakeModel("abc", pause=pause))
    peer.send(generate(1))
    assert went.wait(10)
    peer.send(Encode(2, Prompt(text="hi"), plain=True), Decode(3, (104, 105)))
    go.set()
    got = peer.until(Done)
    assert Encoded(2, (104, 105)) in got
    assert Decoded(3, "hi") in got


def test_ids_that_no_model_has_are_refused(bench: Bench) -> None:
    peer = bench.start(FakeModel())
    peer.send(Decode(1, (0x110000,)))
    assert peer.receive() == Refused(1, "tokens")


def test_a_fault_of_the_library_ends_that_answer_alone(bench: Bench) -> None:
    peer = bench.start(FakeModel("ok"))
    peer.send(generate(1, "defect"))
    refused = peer.receive()
    assert isinstance(refused, Refused)
    assert refused.kind == "fault"
    peer.send(generate(2))
    assert timeless(peer.until(Done)[-1]) == Done(2, "stop", 3, 0, 0)


@pytest.mark.parametrize("error", [ValueError("range"), IndexError(), MemoryError()])
def test_so_does_one_in_the_middle(bench: Bench, error: Exception) -> None:
    model = FakeModel("abc")
    steps = iter([None, error])

    def pause() -> None:
        if (found := next(steps, None)) is not None:
            raise found

    model.pause = pause
    peer = bench.start(model)
    peer.send(generate(1), generate(2))
    assert [type(one) for one in peer.until(Refused)] == [Began, Delta, Refused]
    assert timeless(peer.until(Done)[-1]) == Done(2, "stop", 4, 0, 0)


def test_garbage_ends_an_engine(bench: Bench) -> None:
    peer = bench.start(FakeModel())
    peer.sock.sendall(b"\0\0\0\1x")
    assert peer.sock.recv(1) == b""


def test_the_header_of_a_turn_is_told_where_calls_are_read(bench: Bench) -> None:
    for marks, text in ((True, "a<|assistant|>b"), (False, "ab")):
        peer = bench.start(FakeModel("a\1b"))
        peer.send(generate(1, marks=marks))
        got = peer.until(Done)
        assert "".join(one.text for one in got if isinstance(one, Delta)) == text


@pytest.mark.parametrize("error", [RuntimeError("bad magic"), MemoryError(), ImportError("no")])
def test_a_model_that_cannot_be_loaded_is_said(bench: Bench, error: Exception) -> None:
    peer = bench.refuse(error)
    broken = peer.until(Broken)[-1]
    assert isinstance(broken, Broken)
    assert type(error).__name__ in broken.reason


def test_a_file_that_is_gone_is_said(bench: Bench) -> None:
    peer = bench.refuse(RuntimeError(), "other.bin")
    assert "FileNotFoundError" in str(peer.receive())


def test_an_engine_ends_when_nobody_listens(bench: Bench) -> None:
    peer = bench.start(FakeModel())
    peer.sock.close()
    bench.end()  # joins its thread
    assert not bench.alive()


class Held:
    """A pause in a generation, which a test ends."""

    def __init__(self) -> None:
        self.go, self._went = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self._went.set()
        assert self.go.wait(10)

    def reached(self) -> None:
        assert self._went.wait(10)


def test_two_ask_with_the_same_numbers_and_each_is_answered(bench: Bench) -> None:
    held = Held()
    host = bench.host(FakeModel("ab", pause=held))
    first, second = Peer(host.sock), Peer(host.join())
    first.until(Ready)
    first.send(generate(1))
    held.reached()
    second.send(Encode(1, Prompt(text="hi"), plain=True), generate(2, "abc"), Cancel(1))
    held.go.set()
    assert [type(one) for one in first.until(Done)] == [Began, Delta, Delta, Done]
    got = [timeless(one) for one in second.until(Done)]
    assert Encoded(1, (104, 105)) in got
    assert Began(2, 3) in got
    assert second.sock.close() is None


def test_a_connection_that_ends_cancels_its_answers_alone(bench: Bench) -> None:
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
    assert timeless(second.until(Done)[-1]) == Done(1, "length", 3, 0, 0)
    assert len(model.asked) == 2, "what the other had waiting was not begun"
    second.sock.close()


def test_who_joins_late_is_told_that_it_is_ready(bench: Bench) -> None:
    model = FakeModel("ab")
    host = bench.host(model)
    Peer(host.sock).until(Ready)
    late = Peer(host.join())
    assert late.receive() == ready(model)
    late.send(generate(1))
    assert late.until(Done)
    host.sock.close()
    late.send(generate(2))
    assert late.until(Done), "it goes on for who is left"
    late.sock.close()
    bench.end()
    assert not bench.alive()


def test_one_that_does_not_read_holds_nobody_up(bench: Bench) -> None:
    text = "x" * 300_000
    model = FakeModel("ok")
    host = bench.host(model)
    lazy, other = Peer(host.sock), Peer(host.join())
    lazy.until(Ready)
    for number in range(20):
        lazy.send(Encode(number, Prompt(text=text), plain=True))
    other.send(generate(1))
    assert timeless(other.until(Done)[-1]) == Done(1, "stop", 3, 0, 0)
    got = [lazy.receive() for _ in range(20)]
    assert [one.id for one in got if isinstance(one, Encoded)] == [*range(20)]
    other.sock.close()


def test_one_that_never_reads_is_hung_up_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "BOUND", 1 << 20)
    host = bench.host(FakeModel("ok"))
    lazy, other = Peer(host.sock), Peer(host.join())
    lazy.until(Ready)
    with pytest.raises(BrokenPipeError):
        for number in range(100):
            lazy.send(Encode(number, Prompt(text="x" * 300_000), plain=True))
    other.send(generate(1))
    assert other.until(Done)
    other.sock.close()


def test_a_model_not_used_is_unloaded_and_all_are_told(bench: Bench) -> None:
    host = bench.host(FakeModel("ok"), idle=0.05)
    first, second = Peer(host.sock), Peer(host.join())
    assert isinstance(first.until(Bye)[-1], Bye)
    assert isinstance(second.until(Bye)[-1], Bye)
    with pytest.raises(FileNotFoundError):
        host.join()
    second.sock.close()
