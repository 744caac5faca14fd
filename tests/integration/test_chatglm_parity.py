"""Same requests to chatglm_cpp's own reference server and to slotproxy, side by side.

Both run the same scripted model by the same library. Where they differ, slotproxy is right by the
real OpenAI API and by the model's own words, and the difference is written down here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.extras import need
from tests.integration.test_chatglm import CALL, TOOL, USER
from tools import made_up_chatglm as made_up
from tools.processes import Child, Gateway, ask, held_port

need("test", "fastapi", "uvicorn", "sse_starlette", "pydantic_settings")  # the reference server's

REFERENCE = """
import sys, uvicorn
from chatglm_cpp.openai_api import app
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""
HELLO = ["\n", " 你好，", "我是", "机器人。", " Hello", " world", "!", "</s>"]
GREEDY = {"temperature": 0}
CHAT = "/v1/chat/completions"


class Pair(NamedTuple):
    """Both servers with the same model."""

    reference: str
    ours: str

    def ask(self, **body: Any) -> tuple[tuple[int, Any], tuple[int, Any]]:
        """Status and reply of both; a stream is a list of its documents."""
        return _ask(self.reference, body), _ask(self.ours, body)


def _ask(url: str, body: dict[str, Any]) -> tuple[int, Any]:
    status, content = ask(f"{url}{CHAT}", body, seconds=60.0)
    if status == 200 and body.get("stream"):
        lines = content.decode().splitlines()
        said = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
        return status, [json.loads(line) for line in said if line != "[DONE]"]
    return status, json.loads(content)


def _said(reply: Any) -> str:
    """The text of a reply or of a stream."""
    if isinstance(reply, list):
        return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in reply)
    return str(reply["choices"][0]["message"]["content"])


def _pair(script: list[str], folder: Path) -> Iterator[Pair]:
    folder.mkdir(parents=True, exist_ok=True)
    model = made_up.write(folder / "m.bin", tuple(script))
    port = held_port()
    reference = Child(
        [sys.executable, "-c", REFERENCE, str(port)],
        folder / "reference.log",
        {"MODEL": str(model), "MAX_LENGTH": "2048"},
    )
    ours = Gateway(["--chatglm-model", str(model)], folder / "ours.log")
    try:
        reference.launch()
        ours.start()
        url = f"http://127.0.0.1:{port}"
        while ask(f"{url}/v1/models")[0] != 200:
            assert reference.alive, reference.log
        yield Pair(url, ours.url)
    finally:
        ours.kill()
        reference.kill()


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    yield from _pair(HELLO, tmp_path_factory.mktemp("hello"))


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    yield from _pair([*CALL, "<|observation|>"], tmp_path_factory.mktemp("caller"))


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [USER], **GREEDY},
        {"messages": [USER], "temperature": 0.8, "top_p": 0.8},
        {"messages": [{"role": "system", "content": "s"}, USER], **GREEDY},
        {"messages": [USER, {"role": "assistant", "content": "a"}, USER], **GREEDY},
        {"messages": [USER], **GREEDY, "max_tokens": 20},
    ],
    ids=["greedy", "sampled", "system", "history", "bounded"],
)
def test_same_prompt_gives_the_reference_answer(hello: Pair, body: dict[str, Any]) -> None:
    (status, theirs), (code, ours) = hello.ask(**body)
    assert status == code == 200
    assert _said(ours) == _said(theirs)
    assert ours["choices"][0]["finish_reason"] == theirs["choices"][0]["finish_reason"] == "stop"
    assert ours["usage"]["prompt_tokens"] == theirs["usage"]["prompt_tokens"]


def test_whole_answer_has_every_field_of_the_reference(hello: Pair) -> None:
    (_, theirs), (_, ours) = hello.ask(messages=[USER], **GREEDY)
    assert set(theirs) <= set(ours)
    assert set(theirs["choices"][0]) <= set(ours["choices"][0])
    assert set(theirs["usage"]) <= set(ours["usage"])


def test_stream_equals_the_reference_without_leading_newline(hello: Pair) -> None:
    """The reference keeps the model's first newline in a stream and strips it otherwise."""
    (_, theirs), (_, ours) = hello.ask(messages=[USER], stream=True, **GREEDY)
    assert _said(theirs) == "\n" + _said(ours)
    assert ours[-1]["choices"][0]["finish_reason"] == "stop"


def test_completion_tokens_equal_generated_tokens(hello: Pair) -> None:
    """The reference encodes the answer again to count, which may give other tokens."""
    _, (_, ours) = hello.ask(messages=[USER], **GREEDY)
    assert ours["usage"]["completion_tokens"] == len(HELLO)


def test_max_tokens_counts_new_tokens(hello: Pair) -> None:
    """The reference counts the prompt as well, so its answer is empty."""
    (_, theirs), (_, ours) = hello.ask(messages=[USER], **GREEDY, max_tokens=3)
    assert _said(theirs) == ""
    assert theirs["choices"][0]["finish_reason"] == "stop"
    assert _said(ours) == "你好，我是"
    assert ours["choices"][0]["finish_reason"] == "length"


def test_tool_call_equals_the_reference(caller: Pair) -> None:
    """The reference has no id, its own finish reason, and executes the generated call with eval."""
    (_, theirs), (_, ours) = caller.ask(messages=[USER], tools=[TOOL], **GREEDY)
    (their_call,) = theirs["choices"][0]["message"]["tool_calls"]
    (our_call,) = ours["choices"][0]["message"]["tool_calls"]
    assert our_call["function"]["name"] == their_call["function"]["name"] == "get_weather"
    wanted = {"city": "北京", "days": 2}
    assert json.loads(our_call["function"]["arguments"]) == wanted
    assert json.loads(their_call["function"]["arguments"]) == wanted
    assert our_call["id"] and "id" not in their_call
    assert theirs["choices"][0]["finish_reason"] == "function_call"
    assert ours["choices"][0]["finish_reason"] == "tool_calls"


def test_streamed_tool_call_equals_whole_one(caller: Pair) -> None:
    """The reference sends it as text."""
    (_, theirs), (_, ours) = caller.ask(messages=[USER], tools=[TOOL], stream=True, **GREEDY)
    assert "tool_call(" in _said(theirs)
    assert _said(ours) == ""
    assert ours[-1]["choices"][0]["finish_reason"] == "tool_calls"
