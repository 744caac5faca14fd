"""The real chatglm_cpp behind the real gateway: text, usage, tools, crashes, cancelling.

The models are made up: one says a script, one babbles for ever. Both are real model files, run by
the real library in a real child process.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.clients import openai
from tests.fakes import wait_until
from tests.integration.asking import openai_client
from tools import made_up_chatglm as made_up
from tools.processes import ROOT, Died, Gateway, ask

from .child_processes import command, descendants
from .conftest import StartGateway

chatglm_cpp = pytest.importorskip(
    "chatglm_cpp", reason="not installed: python -m tools.chatglm install"
)

# Each byte of a character is a token, as for rare characters in real models.
HELLO = [
    "\n",
    " 你好，",
    "我是",
    "<0xF0>",
    "<0x9F>",
    "<0xA4>",
    "<0x96>",
    "。",
    " Hello",
    " world",
    "!",
]
CALL = ["get_weather\n", " ```python\n", "tool_call(city='", "<0xE5>", "<0x8C>", "<0x97>", "京"]
CALL += ["',", " days=", "2", ")", "\n```"]
USER = {"role": "user", "content": "你好"}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A factory of model files: the model follows a script."""
    folder = tmp_path_factory.mktemp("chatglm")
    made: dict[tuple[str, ...], Path] = {}

    def write(*script: str) -> Path:
        if script not in made:
            made[script] = made_up.write(folder / f"m{len(made)}.bin", script)
        return made[script]

    return write


@pytest.fixture(scope="session")
def hello(model: Callable[..., Path]) -> Path:
    return model(*HELLO, "</s>")


@pytest.fixture(scope="session")
def babbler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chatglm")
    return made_up.write(folder / "babbler.bin", n_ctx=2 * made_up.LONG)


def engines(gateway: Gateway) -> list[int]:
    """The child processes that run a model, of any worker."""
    return [pid for pid in descendants(gateway.pid) if "chatglm.engine" in command(pid)]


def test_answers_in_two_languages(module_gateway: StartGateway, hello: Path) -> None:
    api = openai_client(module_gateway("--chatglm-model", str(hello)))
    pipeline = chatglm_cpp.Pipeline(str(hello))
    message = chatglm_cpp.ChatMessage(role="user", content="你好")
    prompt = len(pipeline.tokenizer.apply_chat_template([message], 2048))
    own = pipeline.chat([message], do_sample=False, max_new_tokens=50, max_context_length=2048)

    whole = api.chat.completions.create(model="gpt-3.5-turbo", messages=[USER], temperature=0)
    assert whole.choices[0].message.content == own.content == "你好，我是🤖。 Hello world!"
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (prompt, len(HELLO) + 1)

    stream = api.chat.completions.create(
        model="any",
        messages=[USER],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    texts = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(texts) == own.content
    assert len([text for text in texts if text]) > 5, "it came in pieces"
    assert not any("\N{REPLACEMENT CHARACTER}" in text for text in texts)
    assert chunks[-1].usage == whole.usage


def test_named_tool_is_always_called(
    module_gateway: StartGateway, model: Callable[..., Path]
) -> None:
    """The model says the arguments only: the rest was said for it. (The last token of what was said
    for it is the bracket, which leads to the script.)"""
    api = openai_client(module_gateway("--chatglm-model", str(model(*CALL, "<|observation|>"))))
    answer = api.chat.completions.create(
        model="m",
        messages=[USER],
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        max_tokens=5,
    )
    assert answer.usage is not None
    plain = api.chat.completions.create(model="m", messages=[USER], tools=[TOOL], max_tokens=5)
    assert plain.usage is not None
    assert answer.usage.prompt_tokens > plain.usage.prompt_tokens


def test_engine_kill_fails_one_answer_and_the_next_succeeds(
    gateway: StartGateway, babbler: Path
) -> None:
    running = gateway("--chatglm-model", str(babbler))
    api = openai_client(running)
    stream = api.chat.completions.create(
        model="m", messages=[USER], stream=True, max_tokens=made_up.LONG, temperature=0
    )
    chunks = iter(stream)
    for chunk in chunks:
        if chunk.choices[0].delta.content:
            break
    (engine,) = engines(running)
    os.kill(engine, signal.SIGKILL)
    with pytest.raises(openai.APIError, match="the model process exited"):
        list(chunks)
    again = api.chat.completions.create(model="m", messages=[USER], max_tokens=3)
    assert again.usage is not None
    assert again.usage.completion_tokens == 3
    (other,) = engines(running)
    assert other != engine


def test_engine_ends_with_its_parent(gateway: StartGateway, babbler: Path) -> None:
    """The parent is killed while the engine generates."""
    running = gateway("--chatglm-model", str(babbler))
    stream = openai_client(running).chat.completions.create(
        model="m", messages=[USER], stream=True, max_tokens=made_up.LONG
    )
    next(iter(stream))
    (engine,) = engines(running)
    for pid in [running.pid, *descendants(running.pid)]:
        if pid != engine:
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: "chatglm.engine" not in command(engine), 60)


def test_gateway_shutdown_ends_its_engine(gateway: StartGateway, hello: Path) -> None:
    running = gateway("--chatglm-model", str(hello))
    (engine,) = engines(running)
    assert running.stop() == 0
    wait_until(lambda: "chatglm.engine" not in command(engine))


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("gunicorn", "isolation", "thread"),
        ("waitress", "isolation", "process"),
        ("gunicorn", "load", "lazy"),
        ("waitress", "isolation", "thread"),
    ],
    ids=" ".join,
)
def test_every_wsgi_server_serves_chatglm(
    gateway: StartGateway, hello: Path, flags: Sequence[str]
) -> None:
    server, key, value = flags
    variables = {f"SLOTPROXY_CHATGLM_{key.upper()}": value}
    running = gateway("--chatglm-model", str(hello), "--server", server, env=variables)
    api = openai_client(running)
    answer = api.chat.completions.create(model="m", messages=[USER], temperature=0)
    assert answer.choices[0].message.content == "你好，我是🤖。 Hello world!"
    assert len(engines(running)) == (0 if "thread" in flags else 1)


def up(gateway: Gateway, name: str) -> bool:
    backends = json.loads(ask(f"{gateway.url}/v1/backends")[1])["data"]
    return any(backend["id"] == name and backend["state"] == "up" for backend in backends)


def test_invalid_model_file_is_reported_at_start(gateway: StartGateway, tmp_path: Path) -> None:
    file = tmp_path / "no.bin"
    file.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(
        Died, match=r"--chatglm-model: .*no.bin: the file is not a chatglm_cpp model"
    ):
        gateway("--chatglm-model", str(file))


@pytest.mark.slow
def test_model_file_that_crashes_the_library_is_reported(
    gateway: StartGateway, hello: Path, tmp_path: Path
) -> None:
    """A file truncated within its tensors: the gateway survives and reports the reason."""
    file = tmp_path / "cut.bin"
    file.write_bytes(hello.read_bytes()[: hello.stat().st_size // 2])
    running = gateway("--chatglm-model", str(file), ready=0)
    wait_until(lambda: "the model is not running" in str(ask(f"{running.url}/v1/backends")))
    assert ask(f"{running.url}/livez")[0] == 200


@pytest.mark.parametrize("family", ["chatglm", "chatglm2", "glm-4"])
def test_other_model_families_answer(
    gateway: StartGateway, tmp_path: Path, family: made_up.Family
) -> None:
    """Text and usage equal those of the library's own chat, streamed and whole."""
    end = "</s>" if family == "chatglm2" else "<|user|>"
    script = () if family == "chatglm" else (*HELLO, end)  # the oldest can only babble
    file = made_up.write(tmp_path / "m.bin", script, family)
    pipeline = chatglm_cpp.Pipeline(str(file))
    turns = [("user", "你好"), ("assistant", "Hello"), ("user", "hi 好,我!")]
    messages = [chatglm_cpp.ChatMessage(role=role, content=text) for role, text in turns]
    own = pipeline.chat(messages, do_sample=False, max_new_tokens=20, max_context_length=2048)
    prompt = len(pipeline.tokenizer.apply_chat_template(messages, 2048))

    api = openai_client(gateway("--chatglm-model", str(file)))
    fields: dict[str, Any] = {
        "model": "m",
        "messages": [{"role": role, "content": text} for role, text in turns],
        "temperature": 0,
        "max_tokens": 20,
    }
    whole = api.chat.completions.create(**fields)
    assert whole.choices[0].message.content == own.content.strip()
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == prompt
    assert whole.choices[0].finish_reason == ("stop" if script else "length")
    pieces = [
        c.choices[0].delta.content or "" for c in api.chat.completions.create(stream=True, **fields)
    ]
    assert "".join(pieces) == own.content.strip()


def test_glm_4_calls_a_tool_while_it_streams(gateway: StartGateway, tmp_path: Path) -> None:
    script = ["get_weather\n", '{"city": "', "<0xE5>", "<0x8C>", "<0x97>", "京", '"}']
    file = made_up.write(tmp_path / "m.bin", [*script, "<|observation|>"], "glm-4")
    api = openai_client(gateway("--chatglm-model", str(file)))
    name = arguments = reason = ""
    for chunk in api.chat.completions.create(
        model="m", messages=[USER], tools=[TOOL], temperature=0, stream=True
    ):
        choice = chunk.choices[0]
        for delta in choice.delta.tool_calls or []:
            assert delta.function is not None
            name += delta.function.name or ""
            arguments += delta.function.arguments or ""
        reason = choice.finish_reason or reason
    assert (name, json.loads(arguments), reason) == ("get_weather", {"city": "北京"}, "tool_calls")


BUNDLED = ROOT / "models" / "tinychat-chatglm3.bin"


@pytest.mark.skipif(not BUNDLED.is_file(), reason="models/tinychat-chatglm3.bin is not there")
@pytest.mark.skipif(ask("http://127.0.0.1:8080/")[0] != 0, reason="a server is at 127.0.0.1:8080")
def test_bundled_model_is_served_by_default(gateway: StartGateway) -> None:
    running = gateway()
    assert "serving the bundled ChatGLM model" in running.log
    (backend,) = json.loads(ask(f"{running.url}/v1/backends")[1])["data"]
    assert (backend["id"], backend["model"]) == ("embedded", "tinychat-chatglm3")
    api = openai_client(running)
    for text, pattern in (("你好", "[\u4e00-\u9fff]"), ("Hello!", "[a-z]{2}")):
        messages = [{"role": "user", "content": text}]
        stream = api.chat.completions.create(
            model="gpt-3.5-turbo", messages=messages, stream=True, temperature=0, max_tokens=64
        )
        answer = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert re.search(pattern, answer)
