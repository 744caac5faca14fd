"""A call that opens in free text, on real servers: the run is stopped there and goes on under a
grammar, on the same slot and from its cache.

A model of random weights opens no call of its own will, so the first run is helped: where the
gateway asks for free text, the driver asks for a text that holds a call's mark.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from flask.testing import FlaskClient

from proxy.backends import run
from proxy.backends.driver import Capabilities
from proxy.backends.llamacpp import LlamaCpp
from proxy.backends.pools import Backend
from proxy.config import Settings
from proxy.core.task import Task
from proxy.runtime.cancel import Cancel
from tests.apps import app_on
from tests.fakes import services_of, wait_until
from tests.integration.generations import GENERATIONS
from tools.processes import ModelServer

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": CITY}}]
LONG = "It was a dark and stormy night. " * 20
ASK = [{"role": "user", "content": LONG + "What is the weather in Oslo?"}]


class Helped(LlamaCpp):
    """Writes `says` where nothing binds it."""

    says = 'root ::= "Let me see.\\n<tool_call>" [a-z ]*'

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.runs: list[Any] = []
        self.tasks: list[Task] = []

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> Any:
        self.tasks.append(task)
        if not task.sampling.get("grammar"):
            sampling = {**task.sampling, "grammar": self.says}
            task = msgspec.structs.replace(task, sampling=sampling)
        self.runs.append(super().stream(task, slot, caps, cancel))
        return self.runs[-1]


@pytest.fixture(params=GENERATIONS)
def driver(
    request: pytest.FixtureRequest, start_server: Callable[..., ModelServer]
) -> Iterator[Any]:
    """One slot alone: a second run can go nowhere else."""
    server = start_server(request.param, slots=1)
    driver = Helped(server.url)
    yield driver
    driver.close()
    assert server.alive
    server.kill()


def served(driver: Helped, template: str = "hermes") -> FlaskClient:
    backend = Backend("real", driver.url, driver, set_slots=1)
    app = app_on([backend], Settings(chat_template=template))
    wait_until(lambda: services_of(app).gateway.registry.settled)
    return app.test_client()


def test_call_continues_under_grammar_from_the_cached_prompt(driver: Helped) -> None:
    to = served(driver)
    for stream in (False, True, False):
        driver.tasks.clear()
        body = {"messages": ASK, "tools": TOOLS, "stream": stream, "parallel_tool_calls": False}
        answer = to.post("/v1/chat/completions", json=body)
        text = answer.get_data(as_text=True)
        assert answer.status_code == 200, text
        assert len(driver.tasks) >= 2
        assert str(driver.tasks[-1].prompt).endswith("Let me see.\n<tool_call>")
        if stream:
            chunks = [json.loads(f[6:]) for f in text.split("\n\n") if f.startswith("data: {")]
            pieces = [c["choices"][0]["delta"].get("tool_calls") for c in chunks]
            arguments = "".join(p[0]["function"].get("arguments", "") for p in pieces if p)
            assert "city" in json.loads(arguments)
            timings = chunks[-1]["timings"]
        else:
            reply = json.loads(text)
            message = reply["choices"][0]["message"]
            assert message["content"] == "Let me see."
            (call,) = message["tool_calls"]
            assert "city" in json.loads(call["function"]["arguments"])
            timings = reply["timings"]
            usage = reply["usage"]
            # All of both runs: the text, the mark, the call; the discarded part is not in it.
            assert 20 < usage["completion_tokens"] < 120
            assert usage["prompt_tokens"] > 100
        # The second run evaluated no prompt again, but for the tokens around the mark.
        assert timings["prompt_n"] < 40


def test_call_in_generic_format_is_constrained_after_its_name(driver: Helped) -> None:
    driver.says = (
        'root ::= "{\\"tool_calls\\": [{\\"name\\":\\"get_weather\\", \\"arguments\\": {" [a-z]*'
    )
    body = {"messages": ASK, "tools": TOOLS, "parallel_tool_calls": False}
    answer = served(driver, "vicuna").post("/v1/chat/completions", json=body)
    assert answer.json is not None
    (call,) = answer.json["choices"][0]["message"]["tool_calls"]
    assert "city" in json.loads(call["function"]["arguments"])
    assert answer.json["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("gather", [run.GATHER, 1.0])
def test_document_after_thoughts_is_constrained(
    driver: Helped, gather: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one batch brings the end of the thoughts and the end of the budget."""
    monkeypatch.setattr(run, "GATHER", gather)
    driver.says = 'root ::= "<think>\\nLet me see.\\n</think>\\n" [a-z]*'
    schema = {"type": "object", "properties": {"x": {"enum": [1, 2]}}, "required": ["x"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    body = {"messages": ASK, "response_format": form, "max_tokens": 200}
    answer = served(driver, "qwen").post("/v1/chat/completions", json=body)
    assert answer.json is not None, answer.get_data(as_text=True)
    message = answer.json["choices"][0]["message"]
    assert message["reasoning_content"] == "Let me see."
    assert json.loads(message["content"])["x"] in (1, 2)
    assert answer.json["usage"]["completion_tokens"] <= 200
