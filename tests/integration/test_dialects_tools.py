"""Tools in every client's language, there and back, on every kind of backend: the bundled models
call them of their own will. (Calls that must be are test_dialects_clients.py's, by grammar.)"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.runtime import installation
from tests.clients import anthropic, ollama
from tests.integration.asking import openai_client
from tests.integration.generations import BY_PYTHON, BY_SLOTPROXY, BY_V1, GENERATIONS
from tools.processes import Gateway, ModelServer

TEMPLATE = Path(__file__).parents[2] / "models" / "tinychat.jinja"
QUESTION = "What is the weather in Oslo?"
RESULT = '{"temperature": 4}'
NAME, ABOUT = "get_weather", "Get the current weather of a city"
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "name of the city"}},
    "required": ["city"],
}
FUNCTION: dict[str, Any] = {"name": NAME, "description": ABOUT, "parameters": CITY}


@pytest.fixture(scope="module", params=[*GENERATIONS, "native", "chatglm_cpp", *BY_V1])
def address(
    request: pytest.FixtureRequest,
    start_server: Callable[..., ModelServer],
    module_gateway: Callable[..., Gateway],
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Path,
) -> Iterator[str]:
    """A gateway for each kind of backend, with the bundled model of that kind."""
    if request.param == "chatglm_cpp":
        pytest.importorskip("chatglm_cpp", reason="not installed: python -m tools.chatglm install")
        yield module_gateway("--chatglm-model", str(installation.bundled())).url
        return
    if request.param == BY_PYTHON:
        pytest.skip(
            "the bundled models call tools in their own template only, and this server gets them by"
            " prompt: test_openai_backends.py does that with SmolLM2"
        )
    if request.param in BY_V1:
        url = start_server("llama-2026", model=tiny_model, extra=["--jinja"]).url
        if request.param == BY_SLOTPROXY:
            url = module_gateway("--llama-api", url, "--chat-template", str(TEMPLATE)).url
        file = tmp_path_factory.mktemp("config") / "openai.toml"
        file.write_text(f'[[backend]]\nkind = "openai"\nurl = "{url}/v1"\nslots = 2\n')
        yield module_gateway("--config", str(file)).url
        return
    native = request.param == "native"
    server = start_server("llama-2026" if native else request.param, model=tiny_model)
    flags = ("--chat-mode", "native") if native else ("--chat-template", str(TEMPLATE))
    yield module_gateway("--llama-api", server.url, *flags).url
    server.kill()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_openai_tools(address: str, stream: bool) -> None:
    ask: dict[str, Any] = {"model": "any", "temperature": 0, "max_tokens": 200}
    ask["tools"] = [{"type": "function", "function": FUNCTION}]
    messages: list[Any] = [{"role": "user", "content": QUESTION}]

    with openai_client(address) as client:

        def turn() -> Any:
            if not stream:
                return client.chat.completions.create(messages=messages, **ask).choices[0]
            with client.chat.completions.stream(messages=messages, **ask) as events:
                return events.get_final_completion().choices[0]

        choice = turn()
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls
        assert call.function.name == NAME
        assert json.loads(call.function.arguments) == {"city": "Oslo"}
        messages.append(choice.message.model_dump(include={"role", "content", "tool_calls"}))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": RESULT})
        assert "4" in turn().message.content


def test_cached_tokens_are_counted_for_a_resumed_answer(address: str) -> None:
    """A call that opens in free text is written by a second run, which finds the whole prompt."""
    ask: Any = {"model": "any", "temperature": 0, "max_tokens": 200}
    ask["messages"] = [{"role": "user", "content": QUESTION.replace("Oslo", "Lima")}]
    ask["tools"] = [{"type": "function", "function": FUNCTION}]
    with openai_client(address) as client:
        made = client.chat.completions.create(**ask)
    assert made.choices[0].finish_reason == "tool_calls"
    usage: Any = made.usage
    # Nobody asked about this city before: from its name on, the prompt is new.
    assert 0 <= usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens - 3


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_anthropic_tools(address: str, stream: bool) -> None:
    ask: dict[str, Any] = {"model": "any", "max_tokens": 200, "extra_body": {"temperature": 0}}
    ask["tools"] = [{"name": NAME, "description": ABOUT, "input_schema": CITY}]
    messages: list[Any] = [{"role": "user", "content": QUESTION}]

    with anthropic.Anthropic(base_url=address, api_key="x", max_retries=0) as client:

        def turn() -> Any:
            if not stream:
                return client.messages.create(messages=messages, **ask)
            with client.messages.stream(messages=messages, **ask) as events:
                return events.get_final_message()

        answer = turn()
        assert answer.stop_reason == "tool_use"
        call = answer.content[-1]
        assert (call.name, call.input) == (NAME, {"city": "Oslo"})
        result = {"type": "tool_result", "tool_use_id": call.id, "content": RESULT}
        messages.append({"role": "assistant", "content": answer.content})
        messages.append({"role": "user", "content": [result]})
        assert "4" in turn().content[-1].text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_ollama_tools(address: str, stream: bool) -> None:
    client = ollama.Client(address)
    messages: list[Any] = [{"role": "user", "content": QUESTION}]

    def turn() -> tuple[str, list[Any]]:
        made: Any = client.chat(
            model="any",
            messages=messages,
            tools=[{"type": "function", "function": FUNCTION}],
            options={"temperature": 0, "num_predict": 200},
            stream=stream,
        )
        parts = list(made) if stream else [made]
        text = "".join(part.message.content or "" for part in parts)
        return text, [call for part in parts for call in part.message.tool_calls or ()]

    _, (call,) = turn()
    assert (call.function.name, call.function.arguments) == (NAME, {"city": "Oslo"})
    messages.append({"role": "assistant", "content": "", "tool_calls": [call.model_dump()]})
    messages.append({"role": "tool", "tool_name": NAME, "content": RESULT})
    assert "4" in turn()[0]
    client._client.close()  # it has no API for it


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_responses_tools(address: str, stream: bool) -> None:
    ask: dict[str, Any] = {"model": "any", "temperature": 0, "max_output_tokens": 200}
    ask["tools"] = [{"type": "function", "strict": False, **FUNCTION}]

    with openai_client(address) as client:

        def turn(**more: Any) -> Any:
            if not stream:
                return client.responses.create(**ask, **more)
            with client.responses.stream(**ask, **more) as events:
                return events.get_final_response()

        first = turn(input=QUESTION)
        call = first.output[-1]
        assert (call.type, call.name) == ("function_call", NAME)
        assert json.loads(call.arguments) == {"city": "Oslo"}
        result = {"type": "function_call_output", "call_id": call.call_id, "output": RESULT}
        assert "4" in turn(input=[result], previous_response_id=first.id).output_text
