"""Retries, waits and resumes of a request, with scripted backends."""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable

import msgspec
import pytest

from proxy.backends.driver import Capabilities
from proxy.config import fixed
from proxy.core.events import Batch, Event, Failed, Finished, ReasoningDelta, Started, TextDelta
from proxy.core.request import CompletionRequest, Message, OutputFormat
from proxy.core.task import Task
from proxy.core.usage import Usage
from proxy.errors import BackendFailed, GatewayError, NoBackend, QueueTimeout
from proxy.gateway import Answer, Caller, Gateway
from proxy.runtime.cancel import Cancel
from tests.fakes import CAPS, Script, ScriptedRun, ScriptsInTurn, say

from .test_attempt import CUT, REFUSED, text, usage

BROKEN = BackendFailed("it broke")  # the request excludes this backend from now on
MODERN = msgspec.structs.replace(
    CAPS, dialect="llama-server", modern_sampling=True, queues=True, truncates=False
)
NATIVE = msgspec.structs.replace(CAPS, dialect="chatglm", native=True, queues=True)
SCHEMA = {"type": "object", "properties": {"x": {"enum": [1, 2]}}, "required": ["x"]}
DOCUMENT = CompletionRequest(
    messages=(Message(role="user", content="Hi"),),
    max_tokens=60,
    stream=True,
    output=OutputFormat("json_schema", SCHEMA, strict=True),
)
TEXT = CompletionRequest(prompts=("Say it",), max_tokens=8, stream=True)
THOUGHT = "<think>\nHm, so.\n</think>"

Serve = Callable[..., Gateway]


def events(answer: Answer) -> Batch:
    try:
        return [event for _, batch in answer for event in batch]
    finally:
        answer.close()


def ask(gateway: Gateway, request: CompletionRequest) -> Batch:
    return events(gateway.answer(request, Cancel()))


def cut(
    *pieces: str, error: GatewayError = CUT, before: Callable[[], None] | None = None
) -> list[Batch | GatewayError | Callable[[], None]]:
    """An interrupted run; a token is a character. `before` is called before the error."""
    return [*thinks(*pieces), *([before] if before else []), error]


def first_of(gateway: Gateway) -> Callable[[], None]:
    """Marks the second backend down; the returned function marks it up again."""
    gateway.scheduler.mark("b1", False)
    return lambda: gateway.scheduler.mark("b1", True)


def document(prompt: int) -> list[Batch]:
    """The grammar run, whose prompt has `prompt` tokens."""
    return say('{"x":1}', usage=Usage(prompt, 7, 0))


def thinks(*pieces: str) -> list[Batch]:
    """An unconstrained run that ends with the thoughts."""
    thoughts: list[Batch] = [[TextDelta(piece, (), len(piece))] for piece in pieces]
    return [[Started(slot=0)], *thoughts]


def answered(gateway: Gateway) -> str:
    """The text of an answer. Raises the error that it ended with."""
    found = ask(gateway, TEXT)
    last = found[-1]
    if isinstance(last, Failed):
        raise last.error
    return text(found)


class Faulty(ScriptsInTurn):
    """Refuses every connection while it is down; `probes` counts probes."""

    def __init__(self, *scripts: Script | GatewayError) -> None:
        super().__init__(*scripts)
        self.probes = 0
        self.fault: GatewayError = REFUSED

    def probe(self, deadline: float, *learned: object) -> Capabilities:
        self.probes += 1
        if not self.up:
            raise self.fault
        return super().probe(deadline)

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> ScriptedRun:
        if not self.up:
            self.tasks.append(task)
            raise self.fault
        return super().stream(task, slot, caps, cancel)


# down backends


def test_request_with_refused_connection_is_answered_after_recovery(
    serve: Serve,
) -> None:
    driver = Faulty(REFUSED)
    assert answered(serve(driver)) == "Hello"
    assert len(driver.tasks) == 2
    assert driver.probes == 2, "it was given a request without a look"


def test_wait_for_backend_ends_with_503_and_retry_after(serve: Serve) -> None:
    driver = Faulty()
    gateway = serve(driver, wait_for_backend=0.4)
    driver.up = False
    began = time.monotonic()
    with pytest.raises(NoBackend) as caught:
        answered(gateway)
    assert 0.4 <= time.monotonic() - began < 20.0
    assert caught.value.status == 503
    assert caught.value.retry_after


@pytest.mark.parametrize(
    ("gone", "waited", "left"),
    [
        (None, 4.0, 6.0),  # it answers: it loads, or is busy
        (1.0, 0.0, 9.0),  # just gone, as in a restart
        (1.0, 4.0, 6.0),  # a request that waited before
        (30.0, 0.0, 2.0),
        (30.0, 3.0, -1.0),
        (math.inf, 0.0, 2.0),  # nothing ever answered
    ],
)
def test_wait_counts_from_when_a_backend_was_lost(
    serve: Serve, gone: float | None, waited: float, left: float
) -> None:
    registry = serve(Faulty()).registry
    (backend,) = registry.backends.values()
    backend.unreachable_since = math.inf if gone is None else time.monotonic() - gone
    assert registry.patience(backend.model, waited, 10.0) == pytest.approx(left, abs=0.5)
    assert registry.patience(backend.model, 0.0, 0.5) <= 0.5


def test_wait_for_backend_is_bounded_by_queue_timeout(serve: Serve) -> None:
    driver = Faulty()
    gateway = serve(driver, queue_timeout=0.4)
    driver.up = False
    with pytest.raises(QueueTimeout):
        answered(gateway)


def heartbeats(answer: Answer, driver: Faulty) -> Batch:
    """The events of an answer whose driver is up again after the third heartbeat."""
    received, waited = list[Event](), 0
    for _, batch in answer:
        received += batch
        waited += not batch
        driver.up |= waited == 3
    answer.close()
    return received


# faults of one request


def test_retries_after_refused_connections_are_bounded(serve: Serve) -> None:
    driver = Faulty(*[REFUSED] * 9)
    with pytest.raises(NoBackend):
        answered(serve(driver))
    assert len(driver.tasks) == 3


# interrupted answers


def test_interrupted_answer_resumes_when_its_only_backend_recovers(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fixed, "PING", 0.05)
    driver = Faulty()
    down = functools.partial(setattr, driver, "up", False)
    driver.scripts = [cut("one ", "two ", before=down), say("three", usage=Usage(9, 1, 0))]
    gateway = serve(driver)
    answer = gateway.answer(msgspec.structs.replace(TEXT, max_tokens=20), Cancel())
    found = heartbeats(answer, driver)
    assert text(found) == "one two three"
    assert usage(found).continued == answer.info.continued == 1
    assert driver.tasks[-1].prompt == "Say itone two "


# thoughts and grammars


def test_interrupted_thoughts_resume_without_answer_grammar(serve: Serve) -> None:
    driver = ScriptsInTurn(cut("<think>\nHm, "), thinks("so.\n</think>"), document(7 + 25))
    answer = serve(driver, chat_template="qwen").answer(DOCUMENT, Cancel())
    found = events(answer)
    assert json.loads(text(found)) == {"x": 1}
    counts = usage(found)
    assert (counts.prompt, counts.completion, counts.continued) == (7, 25 + 7, 1)
    assert answer.info.usage.continued == answer.info.continued == 1
    broken, resumed, bound = driver.tasks
    assert "grammar" not in broken.sampling
    assert "grammar" not in resumed.sampling, "thoughts are free"
    assert bound.sampling["grammar"]
    assert resumed.prompt == f"{broken.prompt}<think>\nHm, "
    assert bound.prompt == f"{broken.prompt}{THOUGHT}\n\n"


def test_grammar_of_resumed_answer_fits_its_new_backend(serve: Serve) -> None:
    modern = ScriptsInTurn(caps=MODERN)
    old = ScriptsInTurn(thinks("so.\n</think>"), document(7 + 25))
    gateway = serve(modern, old, chat_template="qwen")
    modern.scripts = [cut("<think>\nHm, ", error=BROKEN, before=first_of(gateway))]
    found = ask(gateway, DOCUMENT)
    assert json.loads(text(found)) == {"x": 1}
    assert modern.tasks[0].sampling["preserved_tokens"]
    resumed, bound = old.tasks
    for task in (resumed, bound):
        assert "preserved_tokens" not in task.sampling
        assert "timings_per_token" not in task.sampling
    assert bound.sampling["grammar"]


# counts


def test_tokens_before_and_after_each_interruption_are_counted_once(serve: Serve) -> None:
    driver = ScriptsInTurn(cut("a", "b"), cut("c"), say("d", usage=Usage(10, 1, 0)))
    gateway = serve(driver)
    answer = gateway.answer(TEXT, Cancel())
    found = events(answer)
    assert text(found) == "abcd"
    assert usage(found) == Usage(7, 4, 0, continued=2)
    assert [task.max_tokens for task in driver.tasks] == [8, 6, 5]
    assert answer.info.usage == usage(found)


def test_stop_string_in_resumed_answer_counts_preceding_tokens(serve: Serve) -> None:
    driver = ScriptsInTurn(cut("a", "b"), say("c", "#", "d"))
    found = ask(serve(driver), msgspec.structs.replace(TEXT, stop=("#",)))
    assert text(found) == "abc"
    assert usage(found) == Usage(7, 4, 0, continued=1)


def test_answer_interrupted_after_last_token_is_complete(serve: Serve) -> None:
    driver = ScriptsInTurn(cut("a" * 8))
    found = ask(serve(driver), TEXT)
    last = found[-1]
    assert isinstance(last, Finished)
    assert last.reason == "length"
    assert last.usage == Usage(7, 8, 0)
    assert len(driver.tasks) == 1


# where an answer may resume


@pytest.mark.parametrize("mode", ["native", "chat_mode"])
def test_backend_with_own_prompts_does_not_restart_interrupted_answer(
    serve: Serve, mode: str
) -> None:
    first = ScriptsInTurn()
    caps = NATIVE if mode == "native" else msgspec.structs.replace(MODERN, chat=True)
    second = ScriptsInTurn(caps=caps)
    gateway = serve(first, second, chat_template="qwen")
    if mode == "chat_mode":
        gateway.registry.backends["b1"].chat_mode = "native"
    first.scripts = [cut("one ", error=BROKEN, before=first_of(gateway))]
    found = ask(gateway, msgspec.structs.replace(DOCUMENT, output=OutputFormat()))
    assert text(found) == "one "
    assert found[-1] == Failed(BROKEN)
    assert not second.tasks


CHAT = msgspec.structs.replace(DOCUMENT, output=OutputFormat())


@pytest.mark.parametrize("thinks_first", [False, True])
def test_answer_of_a_backend_with_own_prompts_resumes_on_one_without(
    serve: Serve, thinks_first: bool
) -> None:
    first, second = ScriptsInTurn(caps=NATIVE), ScriptsInTurn(say("two"))
    gateway = serve(first, second, chat_template="chatml")
    thoughts: list[Batch] = [[ReasoningDelta("Hm.")]] if thinks_first else []
    broken = cut("one ", before=first_of(gateway))
    first.scripts = [[broken[0], *thoughts, *broken[1:]]]
    found = ask(gateway, CHAT)
    if thinks_first:  # which of its text the other would have to be given is not known
        assert found[-1] == Failed(CUT)
        return
    assert text(found) == "one two"
    prompt = second.tasks[0].prompt
    assert isinstance(prompt, str)
    assert prompt.startswith("<|im_start|>user\nHi") and prompt.endswith("one ")


def test_generation_settings_of_resumed_answer_have_original_prompt(serve: Serve) -> None:
    report = msgspec.structs.replace(TEXT.report, settings=True)
    end = Finished(reason="stop", usage=Usage(9, 1, 0), slot=0, settings={}, prompt="Say ita")
    driver = ScriptsInTurn(cut("a"), [[Started(slot=0)], [TextDelta("b")], [end]])
    found = ask(serve(driver), msgspec.structs.replace(TEXT, report=report))
    last = found[-1]
    assert isinstance(last, Finished)
    assert last.prompt == "Say it"


def test_every_run_tells_whose_request_it_is(serve: Serve) -> None:
    """By this, keys take turns where models take turns in the memory."""
    driver = ScriptsInTurn(cut("He"), say("llo"))
    answer = serve(driver).answer(TEXT, Cancel(), Caller(key="anna"))
    assert any(isinstance(event, Finished) for event in events(answer))
    assert [task.key for task in driver.tasks] == ["anna", "anna"]
