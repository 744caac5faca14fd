"""The driver on a scripted engine: answers, crashes, timeouts and unloading."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from proxy.backends.chatglm.driver import ChatGLM
from proxy.backends.chatglm.protocol import Done
from proxy.backends.chatglm.supervisor import PendingCall
from proxy.core.events import Finished, Started, TextDelta
from proxy.core.request import CompletionRequest, Message
from proxy.core.task import Task
from proxy.core.usage import Usage
from proxy.errors import (
    BackendDown,
    BadRequest,
    Cancelled,
    ContextExceeded,
    GatewayError,
    Unsupported,
    UpstreamFault,
    UpstreamTimeout,
)
from proxy.runtime import subprocesses
from proxy.runtime.cancel import Cancel
from tests.fakes import checked, wait_until
from tests.unit.backends.chatglm.fakes import FakeModel, FakeProcess

PATIENCE = 20.0


def model_file(path: Path, kind: int = 3, n_ctx: int = 64) -> Path:
    values = (0,) * 10 + (n_ctx, 2, -1)
    path.write_bytes(b"ggml" + struct.pack("<ii13i", kind, 2, *values) + bytes(100))
    return path


class Rig:
    """A driver and the engines it started."""

    def __init__(self, folder: Path) -> None:
        self.file = model_file(folder / "m.bin")
        self.model = FakeModel("hello")
        self.hosts: list[FakeProcess] = []
        self.open: Callable[[str, int], object] = lambda path, n_ctx: self.model
        self._drivers: list[ChatGLM] = []

    def launch(self, sock: socket.socket) -> Any:
        self.hosts.append(FakeProcess(sock, lambda path, n_ctx: self.open(path, n_ctx)))
        return self.hosts[-1]

    def load_slowly(self) -> threading.Event:
        """Models load once the event is set."""
        gate = threading.Event()

        def slow(path: str, n_ctx: int) -> FakeModel:
            assert gate.wait(PATIENCE)
            return self.model

        self.open = slow
        return gate

    def driver(self, **options: Any) -> ChatGLM:
        one = ChatGLM(str(self.file), self.launch, **{"tick": 0.05, **options})
        self._drivers.append(one)
        return one

    def up(self, **options: Any) -> ChatGLM:
        """A driver with a loaded model."""
        driver = self.driver(**options)
        wait_until(lambda: _probes(driver))
        return driver

    def end(self) -> None:
        for one in self._drivers:
            one.close()


def _probes(driver: ChatGLM) -> bool:
    try:
        driver.probe(5)
    except BackendDown:
        return False
    return True


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path)
    yield one
    one.end()


def chat(text: str = "hi", **more: Any) -> Task:
    request = CompletionRequest(
        messages=(Message(role="user", content=text),), tools=more.pop("tools", ())
    )
    return Task(prompt="", backend_templates=True, request=request, **more)


def run(driver: ChatGLM, task: Task, cancel: Cancel | None = None) -> list[Any]:
    caps = driver.probe(5)
    batches = checked(driver.stream(task, 0, caps, cancel or Cancel()))
    return [event for batch in batches for event in batch]


def test_driver_describes_itself(rig: Rig) -> None:
    driver = rig.driver(eager=False, n_ctx=32)
    caps = driver.probe(5)
    assert (caps.dialect, caps.slots, caps.n_ctx, caps.models) == ("chatglm3", 1, 32, ("m",))
    assert caps.native
    assert not caps.truncates


def test_whole_answer_is_generated(rig: Rig) -> None:
    driver = rig.up()
    events = run(driver, chat(max_tokens=50))
    assert isinstance(events[0], Started)
    assert "".join(one.text for one in events if isinstance(one, TextDelta)) == "hello"
    last = events[-1]
    assert isinstance(last, Finished)
    assert (last.reason, last.usage) == ("stop", Usage(2, 6))
    assert last.timings.predicted_n == 6


def test_request_waits_for_a_loading_model(rig: Rig) -> None:
    gate = rig.load_slowly()
    driver = rig.driver(eager=False)
    caps = driver.probe(5)
    assert driver.alive() and rig.hosts == [], "it is loaded by the first request"
    batches = iter(driver.stream(chat(), 0, caps, Cancel()))
    assert next(batches) == []  # a tick of silence
    gate.set()
    assert any(batch for batch in batches)


WAITS: dict[str, Callable[[ChatGLM, Cancel], object]] = {
    "an answer": lambda driver, cancel: list(driver.stream(chat(), 0, CAPS, cancel)),
    "tokens": lambda driver, cancel: driver.tokenize("ab", cancel=cancel),
    "the tokens of a chat": lambda driver, cancel: driver.prompt_ids(chat(), cancel),
}


@pytest.mark.parametrize("work", WAITS.values(), ids=WAITS)
def test_client_that_leaves_while_a_model_loads_frees_the_slot_soon(
    rig: Rig, work: Callable[[ChatGLM, Cancel], object]
) -> None:
    gate = rig.load_slowly()
    driver, cancel = rig.driver(eager=False, tick=15.0), Cancel()
    with ThreadPoolExecutor(1) as threads:
        waits = threads.submit(work, driver, cancel)
        wait_until(lambda: bool(rig.hosts))
        cancel.cancel()
        try:
            with pytest.raises(Cancelled):
                waits.result(5)
        finally:
            gate.set()


def test_eager_model_reports_loading(rig: Rig) -> None:
    gate = rig.load_slowly()
    driver = rig.driver()
    with pytest.raises(BackendDown, match="the model is loading"):
        driver.probe(0.01)
    gate.set()
    wait_until(lambda: _probes(driver))


def test_prompt_longer_than_context_is_refused(rig: Rig) -> None:
    driver = rig.up()
    with pytest.raises(ContextExceeded) as caught:
        run(driver, chat("a" * 64))
    assert caught.value.extra == {"n_prompt_tokens": 64, "n_ctx": 64}


def test_unsupported_request_is_refused_at_once(rig: Rig) -> None:
    driver = rig.driver(eager=False)
    caps = driver.probe(5)
    with pytest.raises(Unsupported):
        driver.stream(chat(sampling={"seed": 1}), 0, caps, Cancel())
    assert rig.hosts == []


def test_library_error_shows_no_path(rig: Rig) -> None:
    driver = rig.up()
    with pytest.raises(UpstreamFault) as caught:
        run(driver, chat("defect"))
    assert caught.value.message == "the model failed"
    assert run(driver, chat())


def test_engine_crash_fails_one_answer_and_the_next_succeeds(rig: Rig) -> None:
    rig.model = FakeModel(endless=True, n_ctx=1 << 20)
    driver = rig.up()
    batches = iter(driver.stream(chat(max_tokens=1 << 19), 0, driver.probe(5), Cancel()))
    while not any(isinstance(one, TextDelta) for one in next(batches)):
        pass
    rig.model = FakeModel("again")  # for the next engine
    rig.hosts[0].kill()
    with pytest.raises(UpstreamFault, match="the model process exited"):
        for _ in batches:
            pass
    assert driver.alive(), "one death is mended by itself"
    assert run_when_up(driver, "again")
    assert len(rig.hosts) == 2


def test_engine_that_dies_behind_a_whole_answer_does_not_fail_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy process sees both at once: the answer, and that its engine has ended."""
    receive = PendingCall.receive

    def late(self: PendingCall, timeout: float) -> list[Any]:
        answers = receive(self, timeout)
        return [*answers, None] if any(isinstance(a, Done) for a in answers) else answers

    monkeypatch.setattr(PendingCall, "receive", late)
    driver = rig.up()
    events = run(driver, chat(max_tokens=50))
    assert [type(event) for event in events].count(Finished) == 1
    assert type(events[-1]) is Finished


def run_when_up(driver: ChatGLM, text: str) -> bool:
    events = [e for batch in driver.stream(chat(), 0, CAPS, Cancel()) for e in batch]
    return "".join(one.text for one in events if isinstance(one, TextDelta)) == text


CAPS: Any = None  # the driver needs no file


def test_engine_that_cannot_load_is_down_with_its_reason(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocesses, "FIRST_PAUSE", 0.01)

    def broken(path: str, n_ctx: int) -> FakeModel:
        raise RuntimeError("bad tensors")

    rig.open = broken
    driver = rig.driver(eager=False)
    with pytest.raises(BackendDown, match="bad tensors") as caught:
        run_when_up(driver, "")
    assert caught.value.retry_after
    assert not driver.alive()
    with pytest.raises(BackendDown):
        driver.probe(5)
    # It is retried with growing pauses until it loads.
    rig.open = lambda path, n_ctx: rig.model
    wait_until(driver.alive)
    assert run_when_up(driver, "hello")


def test_silent_engine_is_ended(rig: Rig) -> None:
    stuck = threading.Event()
    rig.model = FakeModel("x", pause=lambda: stuck.wait(PATIENCE) and None)
    driver = rig.up(timeout=0.2)
    with pytest.raises(UpstreamTimeout):
        for _ in driver.stream(chat(), 0, CAPS, Cancel()):
            pass
    rig.model = FakeModel("again")
    driver.timeout = PATIENCE  # the next one is slow only if the machine is
    stuck.set()
    wait_until(lambda: driver.alive() and len(rig.hosts) == 2)
    assert run_when_up(driver, "again")


def test_client_disconnect_ends_the_generation(rig: Rig) -> None:
    rig.model = FakeModel(endless=True, n_ctx=1 << 20)
    driver = rig.up()
    cancel = Cancel()
    batches = iter(driver.stream(chat(max_tokens=1 << 19), 0, CAPS, cancel))
    next(batches)
    cancel.cancel()
    with pytest.raises(Cancelled):
        for _ in batches:
            pass
    rig.model.endless = False  # an answer still running would never let the next one begin
    assert run_when_up(driver, "")


def test_tokenize_and_detokenize(rig: Rig) -> None:
    driver = rig.up()
    assert driver.tokenize("ab") == [97, 98]
    assert driver.detokenize([97, 98]) == "ab"
    assert driver.prompt_ids(chat("xy")) == [120, 121]
    with pytest.raises(BadRequest, match="token ids"):
        driver.detokenize([0x110000])


def test_closed_driver_refuses_everything(rig: Rig) -> None:
    driver = rig.up()
    driver.close()
    with pytest.raises(GatewayError):
        driver.tokenize("a")
    assert not rig.hosts[0].alive


@pytest.mark.parametrize("content", [b"", b"ggml", b"GGUF" + bytes(80), b"ggml" + bytes(80)])
def test_invalid_model_file_is_down(rig: Rig, content: bytes) -> None:
    rig.file.write_bytes(content)
    with pytest.raises(BackendDown, match=r"chatglm_cpp model|unsupported model file"):
        rig.driver().probe(5)
    rig.file.unlink()
    with pytest.raises(BackendDown, match="cannot be read"):
        rig.driver().probe(5)
