"""Servers that speak OpenAI's API: what they are sent, and what their answers become.

The lists, chunks and messages of vLLM, SGLang, Ollama and LM Studio are written as their
documentation and reports of their users have them, not recorded here.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.driver import Capabilities
from proxy.backends.openai import driver as openai_driver
from proxy.backends.openai.driver import OpenAIHost, OpenAIServer
from proxy.backends.openai.run import OpenAIRun, payload
from proxy.backends.openai.server_types import BY_OWNER, OLLAMA, UNKNOWN, ServerType, models
from proxy.backends.probe import ROUTER
from proxy.backends.refusals import openai_refusal
from proxy.core.events import Event, Finished, ReasoningDelta, TextDelta, ToolCallDelta
from proxy.core.request import CompletionRequest, Message, OutputFormat, Tool, ToolChoice
from proxy.core.task import Task
from proxy.core.usage import Usage
from proxy.errors import (
    AnswerCut,
    BackendBusy,
    BackendDown,
    Cancelled,
    ContextExceeded,
    Unreachable,
    Unsupported,
    UpstreamFault,
)
from proxy.prompting.formats.generic import GENERIC
from proxy.prompting.stages.endings import InvalidOutput
from proxy.runtime.cancel import Cancel

from .rawserver import RawServer, Step, chunk, head

USER = Message(role="user", content="Hi")
WEATHER = Tool("get_weather", "the weather", {"type": "object"})
CAPS = Capabilities(dialect="openai", queues=True, native=True, truncates=False)
VLLM = BY_OWNER["vllm"]


def task(**request: Any) -> Task:
    fields = {"messages": (USER,), **request}
    made = CompletionRequest(**fields)
    return Task(
        prompt="".join(map(str, made.prompts)),
        max_tokens=made.max_tokens or 4096,
        sampling=made.sampling,
        logprobs=made.logprobs,
        backend_templates=True,
        request=made,
    )


@contextlib.contextmanager
def driving(*scripts: Any, **options: Any) -> Iterator[tuple[OpenAIServer, RawServer]]:
    """A driver for a server that plays these scripts."""
    with RawServer(*scripts) as server:
        driver = OpenAIServer(f"{server.url}/v1", **options)
        try:
            yield driver, server
        finally:
            driver.close()


# -- requests --------------------------------------------------------------------------------------


def test_a_chat_asks_for_a_stream_with_usage() -> None:
    assert payload(task(max_tokens=9, sampling={"temperature": 0.5}), "m", UNKNOWN) == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "Hi"}],
    }


def test_a_field_that_the_server_lacks_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match="top_k is not supported") as caught:
        payload(task(sampling={"top_k": 40}), "m", UNKNOWN)
    assert caught.value.param == "top_k"
    assert "mirostat" not in payload(task(sampling={"mirostat": 0}), "m", UNKNOWN), "it is neutral"


ANY_OBJECT = OutputFormat("json_object")
SCHEMA = OutputFormat("json_schema", {"type": "object"}, "thing", True)
BEGUN = (USER, Message(role="assistant", content="The"))
LM_STUDIO = BY_OWNER["organization_owner"]
CHOICE = ToolChoice("named", "get_weather")
NAMED = {"type": "function", "function": {"name": "get_weather"}}


def schema_form(name: str, strict: bool) -> dict[str, Any]:
    form = {"name": name, "schema": {"type": "object"}, "strict": strict}
    return {"type": "json_schema", "json_schema": form}


@pytest.mark.parametrize(
    ("request_", "server", "body"),
    [
        ({}, UNKNOWN, {"max_tokens": None}),  # the server chooses one
        ({"max_tokens": 9}, BY_OWNER["openai"], {"max_completion_tokens": 9, "max_tokens": None}),
        ({"sampling": {"repeat_penalty": 1.1}}, VLLM, {"repetition_penalty": 1.1}),
        ({"output": SCHEMA}, UNKNOWN, {"response_format": schema_form("thing", True)}),
        ({"output": ANY_OBJECT}, UNKNOWN, {"response_format": {"type": "json_object"}}),
        ({"output": ANY_OBJECT}, LM_STUDIO, {"response_format": schema_form("object", False)}),
        ({"messages": BEGUN}, VLLM, {"continue_final_message": True}),
        ({"tools": (WEATHER,), "tool_choice": CHOICE}, UNKNOWN, {"tool_choice": NAMED}),
        ({"tools": (WEATHER,), "parallel_tool_calls": False}, VLLM, {"parallel_tool_calls": False}),
        ({"messages": (), "prompts": ("Once",)}, UNKNOWN, {"prompt": "Once", "messages": None}),
    ],
)
def test_a_request_has_the_fields_of_its_server(
    request_: dict[str, Any], server: ServerType, body: dict[str, Any]
) -> None:
    made = payload(task(**request_), "m", server)
    assert {name: made.get(name) for name in body} == body


def test_a_begun_answer_is_refused_where_the_server_cannot_continue_it() -> None:
    with pytest.raises(Unsupported, match="cannot continue an answer"):
        payload(task(messages=BEGUN), "m", OLLAMA)


def test_biases_have_openais_form() -> None:
    body = payload(task(sampling={"logit_bias": [[5, 1.5], [7, False]]}), "m", UNKNOWN)
    assert body["logit_bias"] == {"5": 1.5, "7": -100.0}
    with pytest.raises(Unsupported, match="token ids"):
        payload(task(sampling={"logit_bias": [["a", 1]]}), "m", UNKNOWN)


# -- lists of models -------------------------------------------------------------------------------


def test_the_context_is_read_under_each_servers_name() -> None:
    (vllm,) = models({"data": [{"id": "q", "owned_by": "vllm", "max_model_len": 8192}]})
    (llama,) = models({"data": [{"id": "q", "owned_by": "llamacpp", "meta": {"n_ctx": 4096}}]})
    (ollama,) = models({"data": [{"id": "q:1b", "owned_by": "library"}]})
    assert (vllm.n_ctx, llama.n_ctx, ollama.n_ctx) == (8192, 4096, 0)


def test_an_odd_entry_is_left_out() -> None:
    assert [m.name for m in models({"data": [{"id": 5}, None, {"id": "good"}]})] == ["good"]
    with pytest.raises(ValueError, match="not a list of models"):
        models({"models": []})


def test_models_that_make_no_text_are_left_out() -> None:
    makes = {"one": ["text"], "two": ["embeddings"], "three": ["image", "text"], "four": "what"}
    entries = [
        {"id": name, "architecture": {"output_modalities": made}} for name, made in makes.items()
    ]
    assert [found.name for found in models({"data": entries})] == ["one", "three", "four"]


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            5000,
            "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens"
            " (4990 in the messages, 10 in the completion).",
        ),
        (
            12,
            "'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's maximum"
            " context length is 4096 tokens and your request has 12 input tokens",
        ),
        (
            9000,
            "The decoder prompt (length 9000) is longer than the maximum model length of 4096.",
        ),
        (9000, "The input (9000 tokens) is longer than the model's context length (4096 tokens)."),
        (
            9000,
            "Trying to keep the first 9000 tokens when context the overflows. However, the model is"
            " loaded with context length of only 4096 tokens",
        ),
        (9000, "Requested tokens (9000) exceed context window of 4096"),
        (4097, "the request is longer than the context length of 4096"),
    ],
)
def test_a_prompt_that_is_too_long_is_recognized(asked: int, words: str) -> None:
    error = openai_refusal(400, json.dumps({"error": {"message": words}}).encode())
    assert isinstance(error, ContextExceeded)
    assert error.extra == {"n_prompt_tokens": asked, "n_ctx": 4096}


def test_other_refusals_keep_their_meaning() -> None:
    assert isinstance(openai_refusal(429, b"{}"), BackendBusy)
    full = (
        b'{"error":{"message":"Request queue full.","type":"ServiceUnavailableError","code":503}}'
    )
    assert isinstance(openai_refusal(503, full), BackendBusy)
    assert isinstance(openai_refusal(503, b'{"error":"loading the model"}'), BackendDown)
    assert "check its url and model" in openai_refusal(404, b'{"error": "model not found"}').message
    assert "API key" in openai_refusal(401, b"{}").message


# -- answers ---------------------------------------------------------------------------------------


def played(steps: list[Step], made: Task | None = None) -> list[Event]:
    with driving(steps, model="m", timeout=60, tick=1) as (driver, _):
        run = driver.stream(made or task(), -1, CAPS, Cancel())
        return [event for batch in run for event in batch]


class _NoExchange:
    def close(self) -> None:
        pass


def run_of(made: Task) -> OpenAIRun:
    """A run whose chunks are given by hand."""
    exchange: Any = _NoExchange()
    return OpenAIRun(exchange, made, CAPS, explain=lambda: AnswerCut("empty"))


def stream(*chunks: Any, done: bool = True) -> list[Step]:
    lines = [f"data: {json.dumps(one)}\n\n" for one in chunks]
    lines += ["data: [DONE]\n\n"] if done else []
    return [head(None) + chunk("".join(lines).encode()) + b"0\r\n\r\n"]


def delta(reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": reason}]}


def call(name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"index": 0, "id": "call_1", "type": "function", "function": function}


def test_text_reasoning_and_usage_become_events() -> None:
    usage = {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    events = played(
        stream(
            delta(role="assistant", content=""),
            delta(reasoning="Hm"),
            delta(reasoning_content="m."),
            delta(content="Good"),
            delta("stop", content=" day"),
            {"choices": [], "usage": usage},
        )
    )
    assert "".join(e.text for e in events if isinstance(e, ReasoningDelta)) == "Hmm."
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "Good day"
    last = events[-1]
    assert isinstance(last, Finished)
    assert (last.reason, last.usage) == ("stop", Usage(7, 3, 4))


def test_a_text_completion_is_read() -> None:
    answer = [
        {"choices": [{"text": " upon", "finish_reason": None}]},
        {"choices": [{"text": " a", "finish_reason": "length"}]},
    ]
    events = played(stream(*answer), task(messages=(), prompts=("Once",)))
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == " upon a"
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "length"


def test_a_call_ends_with_tool_calls_whatever_the_server_says() -> None:
    """Ollama says "stop" behind a call."""
    events = played(
        stream(delta(tool_calls=[call("get_weather", "{}")]), delta("stop")), task(tools=(WEATHER,))
    )
    assert any(isinstance(e, ToolCallDelta) and e.name == "get_weather" for e in events)
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "tool_calls"


def test_a_call_of_a_function_that_was_not_offered_is_an_error() -> None:
    steps = stream(delta(tool_calls=[call("delete_all", "{}")]), delta("tool_calls"))
    with pytest.raises(InvalidOutput, match="may not call"):
        played(steps, task(tools=(WEATHER,)))


def test_an_answer_without_the_required_call_is_an_error() -> None:
    made = task(tools=(WEATHER,), tool_choice=ToolChoice("required"))
    with pytest.raises(InvalidOutput, match="did not call"):
        played(stream(delta("stop", content="It rains.")), made)


def test_an_answer_without_an_end_is_an_error() -> None:
    with pytest.raises(AnswerCut):
        played(stream(delta(content="Good"), done=False))
    with pytest.raises(UpstreamFault):
        played(stream(delta(content="Good")))


def test_an_answer_without_a_limit_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.backends.openai.run.LONGEST_ANSWER", 2)
    monkeypatch.setattr("proxy.backends.relay.SURPLUS", 0)
    events = played(stream(*[delta(content="a")] * 100))
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "length"
    assert len(events) < 20


# -- probes ----------------------------------------------------------------------------------------


def answered(document: Any, status: str = "200 OK") -> list[Step]:
    data = json.dumps(document).encode()
    return [head(len(data), status) + data]


def listed(owner: str) -> list[Step]:
    return answered({"data": [{"id": "m", "owned_by": owner}]})


def probed(*answers: list[Step], model: str = "") -> Capabilities:
    with driving(*answers, model=model) as (driver, _):
        return driver.probe(5)


def test_a_probe_finds_the_type_the_model_and_its_context() -> None:
    entry = {"id": "qwen", "owned_by": "vllm", "max_model_len": 8192}
    caps = probed(answered({"data": [entry]}))
    assert (caps.dialect, caps.models, caps.n_ctx) == ("vllm", ("qwen",), 8192)
    assert "top_k" not in caps.lacks
    assert "mirostat" in caps.lacks


def test_ollama_is_recognized_and_adds_its_tag() -> None:
    entries = [{"id": "a:latest", "owned_by": "library"}, {"id": "b:1b", "owned_by": "library"}]
    caps = probed(answered({"data": entries}), answered({"version": "0.12.3"}), model="a")
    assert (caps.dialect, caps.models) == ("ollama", ("a:latest",))


def test_a_server_with_many_models_is_a_host_of_them() -> None:
    entries = [{"id": "a", "max_model_len": 8192}, {"id": "b"}]
    fewer = [{"id": "b"}]
    missing = answered({}, "404 Not Found")
    full, less = (answered({"data": one}) for one in (entries, fewer))
    with driving([*full, *full, *less], [*missing] * 3) as (driver, _):
        assert driver.probe(5).dialect == ROUTER
        host = OpenAIHost(driver)
        host.look()
        assert list(host.models) == ["a", "b"]
        first = host.model("a")
        assert first.probe(5).n_ctx == 8192
        assert first.alive()
        host.look()
        assert list(host.models) == ["b"]
        assert not first.alive()
        with pytest.raises(BackendDown, match="does not list the model a"):
            first.probe(5)
        first.close()


def test_ollama_with_one_model_may_get_more() -> None:
    entry = {"id": "a:latest", "owned_by": "library"}
    assert probed(answered({"data": [entry]}), answered({"version": "0.12"})).dialect == ROUTER


def test_a_host_that_is_away_takes_its_models_along() -> None:
    driver = OpenAIServer("http://127.0.0.1:9/v1")
    host = OpenAIHost(driver)
    with pytest.raises(BackendDown):
        host.look()
    assert not host.up
    assert not host.model("a").alive()
    with pytest.raises(Unreachable, match="connection refused"):
        host.model("a").probe(5)
    driver.close()


def test_a_model_that_is_not_listed_is_named() -> None:
    with pytest.raises(BackendDown, match="does not list the model c"):
        probed(answered({"data": [{"id": "a"}]}), answered({}, "404 Not Found"), model="c")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("401 Unauthorized", "rejects our API key"),
        ("404 Not Found", "does its url end with /v1"),
        ("500 Oops", "status 500"),
    ],
)
def test_a_probe_says_why_a_server_cannot_be_used(status: str, words: str) -> None:
    with pytest.raises(BackendDown, match=words):
        probed(answered({}, status))


# -- llama-cpp-python's server ---------------------------------------------------------------------

LLAMA_CPP_PYTHON = BY_OWNER["me"]  # its list of models says so
PYTHON = answered({"info": {"title": "🦙 llama.cpp Python API"}})


def test_llama_cpp_python_gets_schemas_in_its_own_form() -> None:
    schema = {"type": "object"}
    body = payload(task(output=OutputFormat("json_schema", schema)), "m", LLAMA_CPP_PYTHON)
    assert body["response_format"] == {"type": "json_object", "schema": schema}
    required = msgspec.structs.replace(
        task(tools=(WEATHER,), tool_choice=ToolChoice("required")),
        call_format=GENERIC,
        described=True,
    )
    body = payload(required, "m", LLAMA_CPP_PYTHON, by_prompt=LLAMA_CPP_PYTHON.by_prompt)
    assert "tools" not in body
    calls = body["response_format"]["schema"]["properties"]["tool_calls"]
    assert calls["items"]["properties"]["name"] == {"const": "get_weather"}


def test_tokens_that_a_server_does_not_report_are_counted() -> None:
    parts = [delta(role="assistant"), delta(content="One"), delta(content=" two"), delta("stop")]
    events = played(stream(*parts), task(messages=(Message(role="user", content="x" * 40),)))
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.usage == Usage(11, 2, 0)


def test_a_stream_without_an_event_is_explained_by_the_same_request_without_a_stream() -> None:
    words = (
        "This model's maximum context length is 2048 tokens. However, you requested 3037 tokens"
        " (3031 in the messages, 6 in the completion)."
    )
    refusal = answered({"error": {"message": words}}, "400 Bad Request")
    empty = head(None) + b"0\r\n\r\n"
    with driving([empty, *refusal], model="m", timeout=60, tick=1) as (driver, server):
        with pytest.raises(ContextExceeded) as error:
            list(driver.stream(task(max_tokens=6), -1, CAPS, Cancel()))
        first, second = (json.loads(one.partition(b"\r\n\r\n")[2]) for one in server.requests)
    assert error.value.extra == {"n_prompt_tokens": 3037, "n_ctx": 2048}
    assert (first["stream"], second["stream"]) == (True, False)
    assert second["max_tokens"] == 1
    assert "stream_options" not in second


def test_the_reason_of_an_empty_stream_is_not_awaited_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openai_driver, "EXPLAINED", 0.5)
    began = time.monotonic()
    with pytest.raises(AnswerCut):
        played([head(None) + b"0\r\n\r\n", lambda sock: time.sleep(30)])
    assert time.monotonic() - began < 20


def test_a_health_check_of_llama_cpp_python_does_not_ask_for_its_models() -> None:
    """That would stop the answer that it writes."""
    with driving(listed("me"), [*PYTHON, *answered({})]) as (driver, server):
        assert driver.probe(5).dialect == "llama-cpp-python"
        assert driver.alive()
        assert server.requests[-1].startswith(b"GET /openapi.json ")


@pytest.mark.parametrize("page", [{}, {"info": {"title": "My server"}}])
def test_another_server_may_own_its_models_itself(page: Any) -> None:
    """What `owned_by` says is anybody's text: it proves nothing without the API's title."""
    with driving([*listed("me"), *listed("me")], answered(page)) as (driver, server):
        assert driver.probe(5).dialect == "openai"
        assert driver.alive()
        assert server.requests[-1].startswith(b"GET /v1/models ")


@given(
    st.lists(st.sampled_from(["text", "empty", "reasoning", "call", "odd"]), max_size=12),
    st.integers(1, 13),
)
def test_chunks_that_came_together_say_the_same_as_one_by_one(
    kinds: list[str], together: int
) -> None:
    made = {
        "text": delta(content="word "),
        "empty": delta(content=""),
        "reasoning": delta(reasoning="Hm."),
        "call": delta(tool_calls=[call("get_weather", "{}")]),
        "odd": {**delta(content="odd "), "created": "not a number", "usage": None, "id": 7},
    }
    payloads = [json.dumps(made[kind]).encode() for kind in kinds]
    payloads += [json.dumps(delta("stop")).encode(), b"[DONE]"]
    found = []
    for size in (1, together):
        run = run_of(task(tools=(WEATHER,), max_tokens=64))
        batch: list[Event] = []
        run._plain([json.dumps(delta(role="assistant")).encode()], batch)
        over = [run._plain(payloads[i : i + size], batch) for i in range(0, len(payloads), size)]
        assert over == [False] * (len(over) - 1) + [True]
        last = batch[-1]
        assert isinstance(last, Finished)
        texts = "".join(e.text for e in batch if isinstance(e, TextDelta))
        thoughts = "".join(e.text for e in batch if isinstance(e, ReasoningDelta))
        calls = [e for e in batch if isinstance(e, ToolCallDelta)]
        found.append((texts, thoughts, calls, last.usage, last.reason))
    assert found[0] == found[1]


# -- tokens ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", ["vllm", "llamacpp"])
def test_count_of_a_chat_ends_with_its_client(owner: str) -> None:
    cancel = Cancel()
    with driving(listed(owner), answered({"prompt": "Hi", "tokens": [1]})) as (driver, _):
        driver.probe(5)
        cancel.cancel()
        with pytest.raises(Cancelled):
            driver.prompt_ids(task(), cancel)


@pytest.mark.parametrize(
    ("owner", "answers", "paths", "body"),
    [
        ("vllm", [{"tokens": [1, 2]}], ["/tokenize"], '"messages":[{"role":"user"'),
        (
            "llamacpp",
            [{"prompt": "<user>Hi"}, {"tokens": [1, 2]}],
            ["/apply-template", "/tokenize"],
            '"content":"<user>Hi"',
        ),
        ("me", [{"tokens": [1, 2]}], ["/extras/tokenize"], '"input":"Hi"'),
    ],
)
def test_the_tokens_of_a_chat_are_counted_as_its_server_can(
    owner: str, answers: list[Any], paths: list[str], body: str
) -> None:
    steps = [step for answer in answers for step in answered(answer)]
    title = PYTHON if owner == "me" else []
    with driving(listed(owner), [*title, *steps]) as (driver, server):
        driver.probe(5)
        assert driver.prompt_ids(task()) == [1, 2]
        asked = [one.decode() for one in server.requests if one.startswith(b"POST")]
    assert [one.split()[1] for one in asked] == paths
    assert body in asked[-1].replace(": ", ":")


def test_a_server_without_a_tokenizer_counts_no_chat() -> None:
    with driving(listed("openai"), answered({}, "404 Not Found")) as (driver, _):
        driver.probe(5)
        with pytest.raises(Unsupported, match="cannot count"):
            driver.prompt_ids(task())
        assert driver.prompt_ids(task(messages=(), prompts=("Once",))) is None
