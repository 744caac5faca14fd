"""Schemas and grammars: small ones here, large ones in a child, each once."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from proxy import compiling as module
from proxy.compiling import Bind, Compiler, Validate
from proxy.core.request import CompletionRequest, Message, OutputFormat
from proxy.errors import Cancelled, InvalidParameter, QueueFull
from proxy.gbnf import NEW
from proxy.prompting.constraints import Constraint
from proxy.runtime.cancel import Cancel
from tests.fakes import ScriptedDriver, make_app, services_of, wait_until

SMALL = b'{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}'
# No other file's: this process keeps the grammars that it has compiled.
LARGE = json.dumps({"type": "string", "pattern": "(c|d)?" * 4000}).encode()


@pytest.fixture
def compiler() -> Iterator[Compiler]:
    made = Compiler()
    yield made
    made.close()


def _children(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    questions: list[Any] = []
    ask = compiler._children.ask

    def counted(question: Any, *more: Any) -> Any:
        questions.append(question)
        return ask(question, *more)

    monkeypatch.setattr(compiler._children, "ask", counted)
    return questions


def test_large_schema_is_compiled_in_a_child_once(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = _children(compiler, monkeypatch)
    job = Bind(Constraint(schema=LARGE), "new")
    began = time.process_time()
    first = compiler.outcome(job)
    assert time.process_time() - began < 0.1
    assert first.text
    assert compiler.outcome(job) == first
    assert len(questions) == 1


class Held:
    """Stands for the children: holds questions until their request is cancelled, or `go` is set."""

    def __init__(self, compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.go = threading.Event()
        self._compiler = compiler
        self._ask = compiler._children.ask
        monkeypatch.setattr(compiler._children, "ask", self)

    def begin(self) -> Asking:
        """The first request, whose question a child has."""
        first = Asking(self._compiler)
        wait_until(lambda: self.calls == 1)
        return first

    def __call__(self, question: Any, cancel: Cancel, seconds: float) -> Any:
        self.calls += 1
        wait_until(lambda: cancel.cancelled or self.go.is_set())
        return self._ask(question, cancel, seconds)


class Asking(threading.Thread):
    """A request for the outcome of a large schema; `got` is that, or the error."""

    def __init__(self, compiler: Compiler) -> None:
        super().__init__()
        self.cancel = Cancel()
        self.got: Any = None
        self._compiler, self._job = compiler, Bind(Constraint(schema=LARGE), "new")
        self.start()

    def run(self) -> None:
        try:
            self.got = self._compiler.outcome(self._job, self.cancel)
        except Exception as error:
            self.got = error

    def result(self) -> Any:
        self.join(60)
        assert self.got is not None
        return self.got


def test_client_that_leaves_does_not_wait_for_a_shared_schema(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Held(compiler, monkeypatch)
    first = children.begin()
    second = Asking(compiler)
    second.cancel.cancel()
    assert isinstance(second.result(), Cancelled)
    assert first.is_alive()
    children.go.set()
    assert first.result().text
    assert children.calls == 1


def test_waiting_request_takes_over_when_the_first_client_leaves(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Held(compiler, monkeypatch)
    first = children.begin()
    others = [Asking(compiler) for _ in range(3)]
    first.cancel.cancel()
    assert isinstance(first.result(), Cancelled)
    children.go.set()
    assert len({asking.result().text for asking in others}) == 1
    assert children.calls == 2


def test_wait_for_a_shared_schema_is_bounded(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Held(compiler, monkeypatch)
    first = children.begin()
    monkeypatch.setattr(module, "SECONDS", 0.0)
    assert isinstance(Asking(compiler).result(), QueueFull)
    first.cancel.cancel()
    first.result()


def test_answer_of_departed_client_is_not_validated(compiler: Compiler) -> None:
    gone = Cancel()
    gone.cancel()
    hard = Validate(b'{"items":{"type":"integer"}}', json.dumps([1] * 5_000))
    with pytest.raises(Cancelled):
        compiler.verdict(hard, gone)


@pytest.mark.parametrize("by", ["schema", "grammar"])
def test_cancel_of_a_request_reaches_its_schemas_and_grammars(by: str) -> None:
    gone = Cancel()
    gone.cancel()
    pattern = "(e|f)?" * 4000
    request = CompletionRequest(messages=(Message(role="user", content="hi"),))
    if by == "schema":
        schema = {"type": "string", "pattern": pattern}
        request = msgspec.structs.replace(request, output=OutputFormat("json_schema", schema))
    else:
        rules = "root ::= " + " ".join(f'"{number}"?' for number in range(8000))
        request = msgspec.structs.replace(request, sampling={"grammar": rules})
    gateway = services_of(make_app(ScriptedDriver())).gateway
    with pytest.raises(Cancelled):
        gateway.answer(request, gone)


def test_compiled_schema_cache_is_bounded_in_bytes(compiler: Compiler) -> None:
    for number in range(20):
        text = b'{"type":"object","description":"%s%d"}' % (b"x" * 20_000, number)
        compiler.outcome(Bind(Constraint(schema=text), "new"))
    assert compiler._kept.size < 100_000  # the texts are none of it


def test_unusable_schema_names_its_parameter() -> None:
    with pytest.raises(InvalidParameter) as refused:
        module.grammar(Constraint(schema=b'{"type":"wrong"}', strict=True), NEW)
    assert refused.value.param == "response_format"


def test_slow_child_is_ended(compiler: Compiler) -> None:
    job = Bind(Constraint(schema=LARGE), "new")
    raw = module._encode(job)
    with pytest.raises(QueueFull, match="large schemas"):
        compiler._done(job, raw, 0.001, None)
    assert compiler._done(job, raw, module.SECONDS, None).text


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit on memory")
def test_child_memory_is_bounded() -> None:
    program = (
        "import resource; from proxy.compiling import MEMORY, _begin; _begin(None);"
        "print(resource.getrlimit(resource.RLIMIT_AS) == (MEMORY, MEMORY)); x = bytes(MEMORY)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "True\n"
    assert "MemoryError" in done.stderr
