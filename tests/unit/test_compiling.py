"""Schemas and grammars: small ones here, large ones in a child, each once."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from proxy import compiling
from proxy.compiling import Compiler
from proxy.core.invalid import Invalid
from proxy.errors import QueueFull
from proxy.prompting.bind import Bound
from proxy.prompting.grammar import NEW
from proxy.prompting.work import Bind, JudgeText, ReadSchema

SMALL = b'{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}'
# No other file's: what this process has compiled once is kept.
LARGE = json.dumps({"type": "string", "pattern": "(c|d)?" * 4000}).encode()


@pytest.fixture
def compiler() -> Iterator[Compiler]:
    made = Compiler()
    yield made
    made.close()


def _children(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    asked: list[Any] = []
    ask = compiler._children.ask

    def counted(question: Any, *more: Any) -> Any:
        asked.append(question)
        return ask(question, *more)

    monkeypatch.setattr(compiler._children, "ask", counted)
    return asked


def test_small_schema_is_compiled_here(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _children(compiler, monkeypatch)
    assert compiler.outcome(Bind(Bound(schema=SMALL), "new")).text
    assert compiler.verdict(JudgeText(SMALL, '{"a":1}')) == ""
    assert compiler.verdict(JudgeText(SMALL, '{"a":"x"}'))
    assert not asked


def test_large_schema_is_compiled_in_a_child_once(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _children(compiler, monkeypatch)
    job = Bind(Bound(schema=LARGE), "new")
    began = time.process_time()
    first = compiler.outcome(job)
    assert time.process_time() - began < 0.1
    assert first.text
    assert compiler.outcome(job) == first
    assert len(asked) == 1


def test_refusal_is_kept_too(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _children(compiler, monkeypatch)
    patterns = {f"p{i}": {"pattern": "(a|b)?" * (3000 + i)} for i in range(20)}
    job = ReadSchema(json.dumps({"properties": patterns}).encode())
    for _ in range(2):
        assert "too much work" in compiler.outcome(job).reason
    assert len(asked) == 1


def test_many_who_ask_at_once_for_one_schema_wait_for_one_child(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _children(compiler, monkeypatch)
    job = Bind(Bound(schema=LARGE), "new")
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(compiler.outcome(job))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8
    assert len(set(map(id, found))) == 1
    assert len(asked) == 1


def test_answer_that_is_hard_to_judge_is_judged_in_a_child(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _children(compiler, monkeypatch)
    schema = b'{"items":{"type":"integer"}}'
    assert compiler.verdict(JudgeText(schema, json.dumps([1] * 5_000))) == ""
    assert "not of type" in compiler.verdict(JudgeText(schema, json.dumps([1] * 5_000 + ["x"])))
    assert len(asked) == 2


def test_what_is_kept_is_bounded_in_bytes(compiler: Compiler) -> None:
    for number in range(20):
        text = b'{"type":"object","description":"%s%d"}' % (b"x" * 20_000, number)
        compiler.outcome(Bind(Bound(schema=text), "new"))
    assert compiler._kept.size < 100_000  # the texts are none of it


def test_unusable_schema_names_its_parameter() -> None:
    with pytest.raises(Invalid) as refused:
        compiling.grammar(Bound(schema=b'{"type":"wrong"}', strict=True), NEW)
    assert refused.value.param == "response_format"


def test_child_that_takes_too_long_is_ended(compiler: Compiler) -> None:
    job = Bind(Bound(schema=LARGE), "new")
    raw = compiling._encode(job)
    with pytest.raises(QueueFull, match="large schemas"):
        compiler._done(job, raw, b"", 0.001)
    assert compiler._done(job, raw, b"", compiling.SECONDS).text


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit on memory")
def test_memory_of_a_child_is_bounded() -> None:
    program = (
        "import resource; from proxy.compiling import MEMORY, _begin; _begin(None);"
        "print(resource.getrlimit(resource.RLIMIT_AS) == (MEMORY, MEMORY)); x = bytes(MEMORY)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "True\n"
    assert "MemoryError" in done.stderr
