"""The official clients of every API, in strict mode, through a gateway to real servers."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import requests
from pydantic import BaseModel, Field

from tests.clients import anthropic, ollama, openai
from tests.contract.ears import sse
from tests.contract.editors import EDITS, WARM_UPS
from tests.integration.generations import (
    BY_OPENAI,
    BY_PYTHON,
    BY_SLOTPROXY,
    BY_V1,
    SERVER_FIXTURES,
)
from tools import made_up_chatglm
from tools.processes import Gateway, ModelServer

CASES = Path(__file__).parents[1] / "cases"
ASK = "Hello there, 你好 🚀"
USER: Any = [{"role": "user", "content": ASK}]
LONG: Any = [{"role": "user", "content": "word " * 9000}]
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=[*SERVER_FIXTURES, "chatglm_cpp", *BY_V1])
def address(
    request: pytest.FixtureRequest,
    module_gateway: Callable[..., Gateway],
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """A gateway for each kind of backend, with a model that babbles."""
    data = ("--data", str(tmp_path_factory.mktemp("data")))
    if request.param == "chatglm_cpp":
        pytest.importorskip("chatglm_cpp", reason="not installed: python -m tools.chatglm install")
        model = made_up_chatglm.write(tmp_path_factory.mktemp("chatglm") / "babbler.bin")
        return module_gateway("--chatglm-model", str(model), *data).url
    if request.param in BY_V1:
        slots = 2
        if request.param == BY_PYTHON:
            start = request.getfixturevalue("start_llama_cpp_python")
            url, slots = start(request.getfixturevalue("made_up_model"), 2048).url, 1
        else:
            url = request.getfixturevalue("_new_server").url
        if request.param == BY_SLOTPROXY:
            url = module_gateway("--llama-api", url, "--chat-template", "chatml").url
        file = tmp_path_factory.mktemp("config") / "openai.toml"
        # llama-server lets text come before the calls that it enforces, but not before documents.
        calls = 'by_prompt = ["required"]\n' if request.param == BY_OPENAI else ""
        file.write_text(
            f'[[backend]]\nname = "far"\nkind = "openai"\nurl = "{url}/v1"\nslots = {slots}\n'
            f'ctx_size = 2048\n{calls}[[route]]\nmodel = "babbler"\n'
            'tiers = [{ name = "only", backends = ["far"] }]\n'
        )
        return module_gateway("--config", str(file), *data).url
    server: ModelServer = request.getfixturevalue(SERVER_FIXTURES[request.param])
    return module_gateway("--llama-api", server.url, "--slots", "2", *data).url


@pytest.fixture
def model() -> str:
    """The name that clients ask for: with one model, any name means that one."""
    return "any"


@pytest.fixture
def binds(request: pytest.FixtureRequest) -> None:
    """For tests that need a grammar to control a babbling model."""
    if request.node.callspec.params["address"] == "chatglm_cpp":
        pytest.skip(
            "chatglm_cpp knows no grammars: what only they can bind is refused (400, by name)"
        )


@pytest.fixture
def counts(request: pytest.FixtureRequest) -> None:
    """For tests that compare the tokens of an answer with those that were counted before."""
    if request.node.callspec.params["address"] == BY_PYTHON:
        pytest.skip("the server reports no tokens in streams, so those of the prompt are estimated")


# Anthropic


@pytest.fixture
def claude(address: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=address, api_key="x", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def test_anthropic_whole_and_streamed(claude: anthropic.Anthropic, model: str) -> None:
    greedy = {"temperature": 0}
    whole = claude.messages.create(
        model=model, max_tokens=12, system="Be kind.", messages=USER, extra_body=greedy
    )
    assert whole.id.startswith("msg_") and whole.stop_reason == "max_tokens"
    assert whole.content[0].type == "text"
    assert whole.usage.output_tokens == 12
    with claude.messages.stream(
        model=model, max_tokens=12, system="Be kind.", messages=USER, extra_body=greedy
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text
    assert final.stop_reason == "max_tokens" and final.usage.output_tokens == 12
    read = final.usage.cache_read_input_tokens or 0
    assert final.usage.input_tokens + read == whole.usage.input_tokens + (
        whole.usage.cache_read_input_tokens or 0
    )


def test_anthropic_stop_sequence(claude: anthropic.Anthropic, model: str) -> None:
    stops = list("etaoinshrdlu")  # any answer has one of these letters
    cut = claude.messages.create(model=model, max_tokens=30, messages=USER, stop_sequences=stops)
    assert cut.stop_reason == "stop_sequence" and cut.stop_sequence in stops
    said = "".join(block.text for block in cut.content if block.type == "text")
    assert not any(stop in said for stop in stops)


@pytest.mark.usefixtures("binds")
def test_anthropic_tool_is_called(claude: anthropic.Anthropic, model: str) -> None:
    ask: dict[str, Any] = {
        "model": model,
        "max_tokens": 200,
        "messages": USER,
        "tools": [{"name": "weather", "input_schema": CITY}],
        "tool_choice": {"type": "tool", "name": "weather"},
    }
    whole = claude.messages.create(**ask)
    assert whole.stop_reason == "tool_use"
    call = whole.content[-1]
    assert call.type == "tool_use" and call.name == "weather"
    assert list(call.input) == ["city"]
    with claude.messages.stream(**ask) as stream:
        final = stream.get_final_message()
    called = final.content[-1]
    assert called.type == "tool_use" and list(called.input) == ["city"]
    answered = claude.messages.create(
        model=model,
        max_tokens=5,
        tools=ask["tools"],
        messages=[
            *USER,
            {"role": "assistant", "content": whole.content},
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"}],
            },
        ],
    )
    assert answered.usage.input_tokens + (answered.usage.cache_read_input_tokens or 0) > 0


@pytest.mark.usefixtures("counts")
def test_anthropic_counts_and_errors(claude: anthropic.Anthropic, model: str) -> None:
    counted = claude.messages.count_tokens(model=model, messages=USER)
    made = claude.messages.create(model=model, max_tokens=1, messages=USER)
    assert counted.input_tokens == made.usage.input_tokens + (
        made.usage.cache_read_input_tokens or 0
    )
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long") as caught:
        claude.messages.create(model=model, max_tokens=5, messages=LONG)
    assert caught.value.request_id
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        claude.messages.create(
            model=model, max_tokens=5, messages=USER, extra_body={"temperature": "hot"}
        )


def test_anthropic_lists_models(claude: anthropic.Anthropic, model: str) -> None:
    listed = {item.id: item for item in claude.models.list()}
    (entry,) = [listed[model]] if model in listed else listed.values()
    assert claude.models.retrieve(entry.id) == entry
    assert entry.max_input_tokens == 2048
    with pytest.raises(anthropic.NotFoundError) as caught:
        claude.models.retrieve("no-such-model")
    body: Any = caught.value.body
    assert body["error"]["type"] == "not_found_error"


@pytest.mark.usefixtures("binds")
def test_anthropic_accepts_every_tool_choice(claude: anthropic.Anthropic, model: str) -> None:
    tool: Any = {"name": "weather", "input_schema": CITY, "cache_control": {"type": "ephemeral"}}
    choices: list[Any] = [
        {"type": "any", "disable_parallel_tool_use": True},
        {"type": "tool", "name": "weather"},
    ]
    for choice in choices:
        made = claude.messages.create(
            model=model, max_tokens=80, messages=USER, tools=[tool], tool_choice=choice
        )
        assert [block.type for block in made.content] == ["tool_use"]
    none: Any = {"type": "none"}
    said = claude.messages.create(
        model=model, max_tokens=9, messages=USER, tools=[tool], tool_choice=none
    )
    assert [block.type for block in said.content] == ["text"]


def test_anthropic_unusual_but_legal(claude: anthropic.Anthropic, model: str) -> None:
    """Other fields of agents: cache marks, thinking budgets, betas, their own blocks."""
    read: Any = claude.messages.create(model=model, max_tokens=0, messages=USER)
    assert (read.content, read.stop_reason, read.usage.output_tokens) == ([], "max_tokens", 0)
    replayed: Any = [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "Yes."},
    ]
    mark: Any = {"type": "ephemeral", "ttl": "1h"}
    made = claude.beta.messages.create(
        model=model,
        max_tokens=9,
        system=[{"type": "text", "text": "Be kind.", "cache_control": mark}],
        messages=[*USER, {"role": "assistant", "content": replayed}, *USER],
        metadata={"user_id": "u"},
        thinking={"type": "enabled", "budget_tokens": 1024},
        context_management={"edits": [{"type": "clear_tool_uses_20250919"}]},
        betas=["context-management-2025-06-27", "interleaved-thinking-2025-05-14"],
    )
    assert made.context_management is not None
    assert made.context_management.applied_edits == []
    assert made.stop_reason == "max_tokens" and made.usage.output_tokens == 9
    pdf: Any = {"type": "base64", "media_type": "application/pdf", "data": "aGk="}
    answer = claude.messages.with_raw_response.create(
        model=model,
        max_tokens=9,
        messages=[{"role": "user", "content": [{"type": "document", "source": pdf}]}],
    )
    assert "document.pdf was left out" in answer.headers["x-slotproxy-warning"]


@pytest.mark.usefixtures("counts")
def test_anthropic_clears_old_tool_results(claude: anthropic.Anthropic, model: str) -> None:
    messages: list[Any] = [*USER]
    for number in range(3):
        call = {"type": "tool_use", "id": f"c{number}", "name": "get", "input": {}}
        result = {"type": "tool_result", "tool_use_id": f"c{number}", "content": "word " * 50}
        messages += [
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]},
        ]
    clear: Any = {
        "type": "clear_tool_uses_20250919",
        "trigger": {"type": "input_tokens", "value": 100},
        "keep": {"type": "tool_uses", "value": 1},
    }
    fields: Any = {"model": model, "messages": messages, "betas": ["context-management-2025-06-27"]}
    edits: Any = {"context_management": {"edits": [clear]}}
    made = claude.beta.messages.create(max_tokens=5, **fields, **edits)
    assert made.context_management is not None
    (applied,) = made.context_management.applied_edits
    cleared: Any = applied
    assert (cleared.type, cleared.cleared_tool_uses) == (clear["type"], 2)
    whole = claude.beta.messages.count_tokens(**fields).input_tokens
    counted = claude.beta.messages.count_tokens(**fields, **edits)
    assert counted.context_management is not None
    assert counted.context_management.original_input_tokens == whole
    assert counted.input_tokens == whole - cleared.cleared_input_tokens
    assert (
        made.usage.input_tokens + (made.usage.cache_read_input_tokens or 0) == counted.input_tokens
    )
    with claude.beta.messages.stream(max_tokens=5, **fields, **edits) as stream:
        done = stream.get_final_message()
    assert done.context_management is not None and done.context_management.applied_edits


def test_anthropic_asynchronous(address: str, model: str) -> None:
    async def ask() -> str:
        async with (
            anthropic.AsyncAnthropic(
                base_url=address, api_key="x", max_retries=0, _strict_response_validation=True
            ) as client,
            client.messages.stream(model=model, max_tokens=7, messages=USER) as stream,
        ):
            return "".join([text async for text in stream.text_stream])

    assert asyncio.run(ask())


# Ollama


@pytest.fixture
def llama(address: str) -> Iterator[ollama.Client]:
    client = ollama.Client(host=address)
    yield client
    client._client.close()  # it has no API for it


GREEDY = {"num_predict": 9, "temperature": 0}


def test_ollama_chat(llama: ollama.Client, model: str) -> None:
    whole = llama.chat(model=model, messages=USER, options=GREEDY)
    assert whole.done and whole.done_reason == "length" and whole.eval_count == 9
    assert whole.total_duration and whole.eval_duration
    parts = list(llama.chat(model=model, messages=USER, options=GREEDY, stream=True))
    text = "".join(p.message.content or "" for p in parts)
    assert text
    assert [p.done for p in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].prompt_eval_count == whole.prompt_eval_count


def test_ollama_generate(llama: ollama.Client, model: str) -> None:
    raw = llama.generate(model=model, prompt="Once", raw=True, options=GREEDY)
    parts = llama.generate(model=model, prompt="Once", raw=True, options=GREEDY, stream=True)
    assert "".join(p.response or "" for p in parts)
    templated = llama.generate(model=model, prompt="Once", system="Be kind.", options=GREEDY)
    assert (templated.prompt_eval_count or 0) > (raw.prompt_eval_count or 0)
    loaded = llama.generate(model=model, prompt="")
    assert loaded.done and loaded.done_reason == "load"


@pytest.mark.usefixtures("binds")
def test_ollama_schema_and_tools(llama: ollama.Client, model: str) -> None:
    made = llama.chat(model=model, messages=USER, format=CITY, options={"num_predict": 100})
    assert list(json.loads(made.message.content or "")) == ["city"]
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
    parts = llama.chat(
        model=model, messages=USER, tools=[tool], options={"num_predict": 20}, stream=True
    )
    assert [p.done for p in parts][-1] is True


def test_ollama_model_routes(llama: ollama.Client, address: str, model: str) -> None:
    names = [item.model for item in llama.list().models]
    name = f"{model}:latest" if f"{model}:latest" in names else names[0]
    assert name
    loaded = {item.model: item for item in llama.ps().models}
    assert loaded[name].context_length == 2048
    for shown in (name, name.removesuffix(":latest")):
        assert "completion" in (llama.show(shown).capabilities or [])
    assert requests.get(address + "/api/version", timeout=60).json()["version"]
    for wrong in (
        lambda: llama.pull("x"),
        lambda: llama.show("no-such-model"),
        lambda: llama.chat(model=model, messages=LONG),
        lambda: list(llama.chat(model=model, messages=LONG, stream=True)),
        lambda: llama.chat(model=model, messages=USER, options={"temperature": -5}),
    ):
        with pytest.raises(ollama.ResponseError) as caught:
            wrong()
        assert caught.value.status_code in (400, 404)
        assert caught.value.error


OPEN_WEBUI = {
    "openai_chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "ollama_chat": "/api/chat",
}


def test_open_webui_works(address: str, request: pytest.FixtureRequest) -> None:
    """Bodies as Open WebUI 0.12 sends them through each of its kinds of connection: an
    administrator's parameters, tools and what one gave back, streamed. Images have a test of their
    own; chatglm_cpp refuses a seed and JSON."""
    for case, path in OPEN_WEBUI.items():
        body = json.loads((CASES / case / "open_webui.json").read_text("utf-8"))["body"]
        for said in body.get("messages") or body["input"]:
            said.pop("images", None)
            if said.get("role") == "user":
                said["content"] = ASK
        if request.node.callspec.params["address"] == "chatglm_cpp":
            for options in (body, body.get("options", {})):
                options.pop("seed", None)
                options.pop("format", None)
        answer = post(address, path, body)
        assert answer.status_code == 200, answer.text
        assert '"error":{' not in answer.text and '"error":"' not in answer.text
        last = '"done":true' if case == "ollama_chat" else '"finish_reason":"'
        assert (last if case != "responses" else '"usage":{"input') in answer.text


def test_ollama_asynchronous(address: str, model: str) -> None:
    async def ask() -> list[str]:
        client = ollama.AsyncClient(host=address)
        stream = await client.chat(model=model, messages=USER, options=GREEDY, stream=True)
        said = [part.message.content or "" async for part in stream]
        await client._client.aclose()
        return said

    assert "".join(asyncio.run(ask()))


# OpenAI Responses


@pytest.fixture
def openai_(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=address + "/v1", api_key="x", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def test_responses_whole_streamed_and_kept(openai_: openai.OpenAI, model: str) -> None:
    whole = openai_.responses.create(
        model=model, input=ASK, max_output_tokens=9, temperature=0, metadata={"a": "b"}
    )
    assert whole.status == "incomplete" and whole.incomplete_details is not None
    assert whole.usage is not None and whole.usage.output_tokens == 9
    assert openai_.responses.retrieve(whole.id) == whole
    events = list(
        openai_.responses.create(
            model=model, input=ASK, max_output_tokens=9, temperature=0, stream=True
        )
    )
    deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
    last = events[-1]
    assert last.type == "response.incomplete"
    assert "".join(deltas) == last.response.output_text
    assert openai_.responses.retrieve(last.response.id) == last.response


@pytest.mark.usefixtures("counts")
def test_responses_continue_one_another(openai_: openai.OpenAI, model: str) -> None:
    first = openai_.responses.create(model=model, input=ASK, max_output_tokens=5)
    second = openai_.responses.create(
        model=model, input="And?", previous_response_id=first.id, max_output_tokens=5
    )
    said = [
        item.content[0].text
        for item in openai_.responses.input_items.list(second.id, order="asc")
        if item.type == "message" and hasattr(item.content[0], "text")
    ]
    assert said == [ASK, first.output_text, "And?"]
    counted = openai_.responses.input_tokens.count(
        model=model, input="And?", previous_response_id=first.id
    )
    assert second.usage is not None and counted.input_tokens == second.usage.input_tokens
    openai_.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        openai_.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        openai_.responses.create(model=model, input="x", previous_response_id=first.id)
    assert caught.value.code == "previous_response_not_found"


@pytest.mark.usefixtures("binds")
def test_responses_tools_round(openai_: openai.OpenAI, model: str) -> None:
    tools: Any = [
        {"type": "web_search"},
        {"type": "function", "name": "weather", "parameters": CITY, "strict": True},
    ]
    ask: dict[str, Any] = {
        "model": model,
        "input": ASK,
        "tools": tools,
        "tool_choice": {"type": "function", "name": "weather"},
        "max_output_tokens": 200,
    }
    whole = openai_.responses.create(**ask)
    call = whole.output[-1]
    assert call.type == "function_call" and list(json.loads(call.arguments)) == ["city"]
    with openai_.responses.stream(**ask) as stream:
        final = stream.get_final_response()
    streamed = final.output[-1]
    assert streamed.type == "function_call" and "city" in json.loads(streamed.arguments)
    answered = openai_.responses.create(
        model=model,
        previous_response_id=whole.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "rain"}],
        tools=tools,
        max_output_tokens=5,
    )
    assert answered.output


@pytest.mark.usefixtures("binds")
def test_responses_parse_into_a_model(openai_: openai.OpenAI, model: str) -> None:
    class City(BaseModel):
        name: Annotated[str, Field(max_length=9)]
        big: bool

    made = openai_.responses.parse(model=model, input=ASK, text_format=City, max_output_tokens=300)
    assert isinstance(made.output_parsed, City)


def test_responses_in_the_background(openai_: openai.OpenAI, model: str) -> None:
    begun = openai_.responses.create(model=model, input=ASK, background=True)
    assert begun.status == "queued"
    assert openai_.responses.cancel(begun.id).status == "cancelled"
    assert openai_.responses.retrieve(begun.id).status == "cancelled"


def test_responses_refer_to_stored_items(openai_: openai.OpenAI, model: str) -> None:
    """As Vercel's AI SDK continues a conversation: with only the ids of earlier items."""
    first = openai_.responses.create(model=model, input=ASK, max_output_tokens=5)
    items: Any = [
        {"role": "user", "content": ASK},
        {"type": "item_reference", "id": first.output[0].id},
        {"role": "user", "content": "And?"},
    ]
    named = openai_.responses.create(model=model, input=items, max_output_tokens=5)
    continued = openai_.responses.create(
        model=model, input="And?", previous_response_id=first.id, max_output_tokens=5
    )
    assert named.usage is not None and continued.usage is not None
    assert named.usage.input_tokens == continued.usage.input_tokens
    items[1]["id"] = "msg_" + "0" * 34
    with pytest.raises(openai.BadRequestError, match="does not refer to a stored item"):
        openai_.responses.create(model=model, input=items)


def test_unsupported_responses_features_are_reported(openai_: openai.OpenAI, model: str) -> None:
    wrong: list[dict[str, Any]] = [
        {"conversation": ["conv_1"]},
        {"prompt": {"id": "pmpt_1"}},
        {"background": True, "stream": True},
        {"background": True, "store": False},
        {"truncation": "some"},
    ]
    for change in wrong:
        with pytest.raises(openai.BadRequestError) as caught:
            openai_.responses.create(model=model, input=ASK, **change)
        assert caught.value.param == next(iter(change))
    response = openai_.responses.create(model=model, input=ASK, max_output_tokens=5, store=False)
    for use in (openai_.responses.retrieve, openai_.responses.cancel, openai_.responses.delete):
        with pytest.raises(openai.NotFoundError):
            use(response.id)
    response = openai_.responses.create(model=model, input=ASK, max_output_tokens=5)
    with pytest.raises(openai.BadRequestError):
        openai_.responses.cancel(response.id)
    with pytest.raises(openai.BadRequestError, match="without stream"):
        openai_.responses.retrieve(response.id, stream=True)


@pytest.mark.usefixtures("binds")
def test_allowed_tools_limit_the_choice(openai_: openai.OpenAI, model: str) -> None:
    function = {"name": "weather", "parameters": CITY}
    tools: Any = [{"type": "function", "function": item} for item in (function, {"name": "clock"})]
    only: Any = [{"type": "function", "function": {"name": "weather"}}]
    made = openai_.chat.completions.create(
        model=model,
        messages=USER,
        max_tokens=80,
        tools=tools,
        tool_choice={
            "type": "allowed_tools",
            "allowed_tools": {"mode": "required", "tools": only},
        },
    )
    calls: Any = made.choices[0].message.tool_calls
    assert {call.function.name for call in calls} == {"weather"}


@pytest.mark.parametrize("editor", [*WARM_UPS])
def test_editors_warm_up(address: str, editor: str) -> None:
    """Editors have the prompt evaluated while the user types, without generating a token."""
    answer = post(address, "/v1/chat/completions", WARM_UPS[editor])
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize("editor", [*EDITS])
def test_editors_edit_with_the_chat(
    address: str, editor: str, request: pytest.FixtureRequest
) -> None:
    """Chat completions with all fields of llama.cpp's server, some of which others lack."""
    body = {**EDITS[editor], "stop": ["e", "o", "是", "a", "你"]}  # the model does not end
    answer = post(address, "/v1/chat/completions", body)
    kind = request.node.callspec.params["address"]
    if kind == BY_PYTHON and "repeat_last_n" in body:
        assert answer.json()["error"]["code"] == "unsupported_parameter"
        return
    assert answer.status_code == 200, answer.text
    frames = [chunk for _, chunk in sse(answer.content)] if body.get("stream") else [answer.json()]
    reasons = [c["finish_reason"] for f in frames if f != "DONE" for c in f["choices"]]
    assert reasons[-1] == "stop"
    new = kind in ("llama-2026", BY_OPENAI, BY_SLOTPROXY)
    warning = answer.headers.get("x-slotproxy-warning", "")
    assert ("samplers is ignored" in warning) is ("samplers" in body and not new)


def test_codex_works(openai_: openai.OpenAI, model: str) -> None:
    """The body of the Codex command-line client: its tool types, its stream."""
    with openai_.responses.stream(
        model="gpt-5-codex" if model == "any" else model,
        instructions="You are a coding agent.",
        input=[
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": ASK}]}
        ],
        tools=[
            {
                "type": "function",
                "name": "shell",
                "strict": False,
                "parameters": {
                    "type": "object",
                    "properties": {"command": {"type": "array", "items": {"type": "string"}}},
                    "required": ["command"],
                },
            },
            {"type": "custom", "name": "apply_patch", "format": {"type": "text"}},
            {"type": "web_search"},
        ],
        tool_choice="auto",
        parallel_tool_calls=False,
        store=False,
        include=["reasoning.encrypted_content"],
        prompt_cache_key="0199",
        extra_body={"max_output_tokens": 9},
    ) as stream:
        kinds = [event.type for event in stream]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] in ("response.completed", "response.incomplete")


def test_openai_batch(openai_: openai.OpenAI, model: str) -> None:
    body = {"model": model, "messages": USER, "max_tokens": 5}
    url: Any = "/v1/chat/completions"
    lines = [{"custom_id": f"l{i}", "method": "POST", "url": url, "body": body} for i in range(4)]
    data = "\n".join(json.dumps(line) for line in lines).encode()
    file = openai_.files.create(file=("lines.jsonl", data), purpose="batch")
    made = openai_.batches.create(
        input_file_id=file.id, endpoint=url, completion_window="24h", metadata={"a": "b"}
    )
    end = time.monotonic() + 180
    while (done := openai_.batches.retrieve(made.id)).status != "completed":
        assert time.monotonic() < end, done
        time.sleep(0.1)
    assert done.request_counts is not None and done.request_counts.completed == 4
    assert done.output_file_id and done.error_file_id is None and done.metadata == {"a": "b"}
    output = openai_.files.content(done.output_file_id).text.splitlines()
    assert [json.loads(line)["custom_id"] for line in output] == ["l0", "l1", "l2", "l3"]
    assert made.id in [batch.id for batch in openai_.batches.list(limit=5)]
    assert openai_.batches.cancel(made.id).status == "completed"


def test_responses_asynchronous(address: str, model: str) -> None:
    async def ask() -> str:
        async with (
            openai.AsyncOpenAI(
                base_url=address + "/v1",
                api_key="x",
                max_retries=0,
                _strict_response_validation=True,
            ) as client,
            client.responses.stream(model=model, input=ASK, max_output_tokens=5) as stream,
        ):
            return [event.type async for event in stream][-1]

    assert asyncio.run(ask()) == "response.incomplete"


# GLM, and llama.cpp's own


def post(address: str, path: str, body: Any, **more: Any) -> requests.Response:
    return requests.post(address + path, json=body, timeout=60, **more)


def room_for(address: str, tokens: int, **body: Any) -> dict[str, Any]:
    """The body with room for so many tokens beside the prompt, which `max_length` counts too,
    except where the backend makes the prompt."""
    refused = post(address, "/chat", {**body, "max_length": 1})
    if refused.status_code == 200:
        return {**body, "max_length": tokens}
    counted = re.search(r"the prompt has (\d+)", refused.json()["detail"])
    assert refused.status_code == 400 and counted is not None
    return {**body, "max_length": int(counted[1]) + tokens}


def test_glm_chat_and_stream_in_chinese(address: str) -> None:
    body = room_for(
        address, 9, prompt="如果给你一个机会，你会想逃离吗？", history=[], temperature=0
    )
    whole = post(address, "/chat", body).json()
    assert whole["object"] == "chat.completion" and whole["completion_tokens"] == 9
    assert whole["total_tokens"] == whole["prompt_tokens"] + 9
    answer = post(address, "/chat-stream", body, headers={"Accept": "text/event-stream"})
    frames = [frame for _, frame in sse(answer.content)]
    assert "".join(f["content"] for f in frames)
    assert frames[-1] == {**whole, "content": ""}


def test_glm_history_tokens_and_langchain(address: str) -> None:
    flat = room_for(address, 5, prompt="P\n", history=[["q1\n", "a1", "q2\n", "a2"]])
    pairs = room_for(address, 5, prompt="P\n", history=[["q1\n", "a1"], ["q2\n", "a2"]])
    counts = [post(address, "/chat", body).json()["prompt_tokens"] for body in (flat, pairs)]
    assert counts[0] == counts[1]
    reply = post(address, "/tokenize", {"prompt": "你好 world", "max_length": 4096}).json()
    assert len(reply["tokenIds"]) == len(reply["tokens"]) > 1
    assert reply["tokens"][-1].endswith("world") or "".join(reply["tokens"]).endswith("world")
    question = room_for(address, 5, prompt="你好", history=[["q", "a"]])
    answer = post(address, "/", question).json()
    assert answer["status"] == 200
    assert answer["history"] == [["q", "a"], ["你好", answer["response"]]]


def test_llama_cpp_completion(address: str) -> None:
    body = {"prompt": "Once", "n_predict": 8, "temperature": 0}
    whole = post(address, "/completion", body).json()
    assert whole["stop"] is True and whole["stop_type"] == "limit" and whole["stopped_limit"]
    assert whole["tokens_predicted"] == 8
    text = post(address, "/completion", {**body, "stream": True}).content
    chunks = [chunk for _, chunk in sse(text)]
    assert "".join(c["content"] for c in chunks)
    assert [c["stop"] for c in chunks][-1] is True
    picked = post(address, "/completion", {**body, "response_fields": ["timings/predicted_n"]})
    assert list(picked.json()) == ["timings/predicted_n"]
    nothing = post(address, "/completion", {**body, "n_predict": 0}).json()
    assert nothing["tokens_predicted"] <= 1


def test_llama_cpp_other_routes(address: str) -> None:
    prompt = post(address, "/apply-template", {"messages": USER}).json()["prompt"]
    assert ASK in prompt
    props = requests.get(address + "/props", timeout=60).json()
    assert props["total_slots"] >= 1
    assert props["default_generation_settings"]["n_ctx"] == 2048
    slots = requests.get(address + "/slots?fail_on_no_slot=1", timeout=60).json()
    assert [s["id"] for s in slots] == list(range(props["total_slots"]))
    assert post(address, "/slots/0?action=erase", {}).status_code == 403
