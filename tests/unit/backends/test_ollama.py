"""Chats of an Ollama backend: as much context as they need, and the form of its own API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from proxy.backends.driver import Capabilities
from proxy.backends.openai.driver import OpenAIServer
from proxy.backends.openai.ollama import Lines, chunk, read_line
from proxy.core.events import Event, Finished, ReasoningDelta, Started, TextDelta, ToolCallDelta
from proxy.core.request import CompletionRequest, Media, Message, OutputFormat, Tool, ToolCall
from proxy.core.task import Task
from proxy.core.usage import Usage
from proxy.errors import BackendBusy, BackendFailed, ContextExceeded, Unsupported
from proxy.runtime.cancel import Cancel
from proxy.wire.sse import MAX_EVENT, SSEError
from tests.ollama_server import DONE, HELLO, NAME, OllamaFake


class Chats:
    def __init__(self, driver: OpenAIServer, caps: Capabilities) -> None:
        self.driver, self.caps = driver, caps

    def ask(self, text: str = "Hi", **fields: Any) -> list[Event]:
        messages = fields.pop("messages", (Message(role="user", content=text),))
        request = CompletionRequest(messages=messages, **fields)
        task = Task(
            prompt="",
            max_tokens=request.max_tokens or self.caps.n_ctx,
            sampling=request.sampling,
            backend_templates=True,
            request=request,
        )
        run = self.driver.stream(task, -1, self.caps, Cancel())
        return [event for batch in run for event in batch]


@contextmanager
def chats(server: OllamaFake, **options: Any) -> Iterator[Chats]:
    driver = OpenAIServer(f"{server.url}/v1", model=NAME, timeout=30, tick=1, **options)
    try:
        yield Chats(driver, driver.probe(5))
    finally:
        driver.close()
        server.close()


def test_a_chat_becomes_text_an_end_and_its_usage() -> None:
    with chats(OllamaFake()) as ollama:
        assert (ollama.caps.dialect, ollama.caps.n_ctx) == ("ollama", 32768)
        start, *texts, end = ollama.ask()
    assert isinstance(start, Started)
    assert "".join(text.text for text in texts if isinstance(text, TextDelta)) == "Hello"
    assert isinstance(end, Finished)
    assert (end.reason, end.usage) == ("stop", Usage(33, 2, 0))


def test_thoughts_and_calls_are_read() -> None:
    call = {"function": {"name": "get", "arguments": {"city": "Oslo"}}}
    lines: list[Any] = [
        {"message": {"role": "assistant", "content": "", "thinking": "Hm."}, "done": False},
        {"message": {"role": "assistant", "content": "", "tool_calls": [call]}, "done": False},
        {"message": {"role": "assistant", "content": "", "tool_calls": [call]}, "done": False},
        DONE,
    ]
    with chats(OllamaFake(lines)) as ollama:
        events = ollama.ask(tools=(Tool("get"),))
    assert ReasoningDelta("Hm.") in events
    calls = [event for event in events if isinstance(event, ToolCallDelta)]
    assert [(made.index, made.name, made.arguments) for made in calls] == [
        (0, "get", '{"city":"Oslo"}'),
        (1, "get", '{"city":"Oslo"}'),
    ]
    assert isinstance(events[-1], Finished) and events[-1].reason == "tool_calls"


def test_a_body_has_the_form_of_its_own_api() -> None:
    image = Media(kind="image", url="data:image/png;base64,QUJD", at=4)
    messages = (
        Message(role="system", content="S"),
        Message(role="user", content="Look", media=(image,)),
        Message(role="assistant", reasoning="R", tool_calls=(ToolCall("c1", "get", '{"a": 1}'),)),
        Message(role="tool", content="2", tool_call_id="c1"),
    )
    server = OllamaFake()
    with chats(server) as ollama:
        ollama.ask(
            messages=messages,
            tools=(Tool("get", "d", {"type": "object"}),),
            output=OutputFormat("json_schema", {"type": "object"}),
            sampling={"temperature": 0.5, "top_k": 20},
            reasoning_effort="xhigh",
            max_tokens=9,
        )
        ollama.ask(output=OutputFormat("json_object"), template_kwargs={"enable_thinking": False})
    body, second = server.bodies
    call = {"name": "get", "arguments": {"a": 1}}
    assert body["messages"] == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Look", "images": ["QUJD"]},
        {
            "role": "assistant",
            "content": "",
            "thinking": "R",
            "tool_calls": [{"id": "c1", "type": "function", "function": call}],
        },
        {"role": "tool", "content": "2", "tool_call_id": "c1", "tool_name": "get"},
    ]
    assert body["options"] == {
        "temperature": 0.5, "top_k": 20, "num_predict": 9, "num_ctx": 4096,
    }  # fmt: skip
    assert (body["model"], body["truncate"], body["shift"]) == (NAME, False, False)
    assert (body["format"], body["think"]) == ({"type": "object"}, "high")
    assert [tool["function"]["name"] for tool in body["tools"]] == ["get"]
    assert (second["format"], second["think"]) == ("json", False)
    assert "num_predict" not in second["options"]


def test_an_image_at_an_address_is_refused_by_name() -> None:
    picture = Media(kind="image", url="https://example.com/a.png")
    message = Message(role="user", media=(picture,))
    with chats(OllamaFake()) as ollama, pytest.raises(Unsupported, match="data: URLs"):
        ollama.ask(messages=(message,))


def test_the_context_grows_in_steps_and_never_cuts_a_prompt() -> None:
    server = OllamaFake(trained=20_000)
    with chats(server) as ollama:
        for size in (10, 5_000, 9_000, 16_000, 40_000, 40_000, 70_000, 10):
            ollama.ask("word " * (size // 5))
        assert server.loads == [4096, 8192, 16384, 20_000]
        assert (server.cut, len(server.bodies)) == (0, 8)


def test_the_length_of_the_answer_has_room_too() -> None:
    server = OllamaFake()
    with chats(server) as ollama:
        ollama.ask(max_tokens=4000)
        ollama.ask(max_tokens=8000)
        ollama.ask(max_tokens=100_000)
    assert server.loads == [4096, 8192, 32768]


def test_the_context_is_never_below_what_is_loaded_or_set() -> None:
    server = OllamaFake(parameters="num_ctx                        8192")
    with chats(server) as ollama:
        ollama.ask()
        assert server.loads == [8192]
        server.loaded = 12_000  # by another client
        ollama.ask()
        assert server.loads == [8192]
        server.loaded = 0  # after some idle minutes
        ollama.ask()
        assert server.loads == [8192, 12_000]


def test_a_prompt_with_more_tokens_than_estimated_gets_the_next_step() -> None:
    server = OllamaFake(width=1)
    with chats(server) as ollama:
        assert isinstance(ollama.ask("1" * 5000)[-1], Finished)
    assert (server.loads, server.cut, server.shifts) == ([4096, 8192], 0, False)


def test_a_prompt_beyond_the_model_is_refused_in_words_that_clients_know() -> None:
    server = OllamaFake(trained=8192, width=1)
    with chats(server) as ollama:
        with pytest.raises(ContextExceeded) as caught:
            ollama.ask("1" * 9000)
        assert (server.loads[-1], server.cut) == (8192, 0)
        assert caught.value.extra["n_ctx"] == 8192
        tries = len(server.bodies)
        with pytest.raises(ContextExceeded):
            ollama.ask("word " * 15_000)
        assert len(server.bodies) == tries, "surely too long: it is not sent"


def test_the_setting_bounds_the_context() -> None:
    server = OllamaFake()
    with chats(server, n_ctx=8192) as ollama:
        ollama.ask(max_tokens=100_000)
        with pytest.raises(ContextExceeded):
            ollama.ask("word " * 9000)
    assert server.loads == [8192]


def test_a_full_queue_is_a_busy_answer() -> None:
    server = OllamaFake()
    server.busy = True
    with chats(server) as ollama, pytest.raises(BackendBusy):
        ollama.ask()


def test_a_failure_within_the_stream_is_an_error() -> None:
    lines: list[Any] = [HELLO[0], {"error": "an error was encountered while running the model"}]
    with chats(OllamaFake(lines)) as ollama:
        request = CompletionRequest(messages=(Message(role="user", content="Hi"),))
        task = Task(prompt="", max_tokens=9, backend_templates=True, request=request)
        run = iter(ollama.driver.stream(task, -1, ollama.caps, Cancel()))
        seen: list[Event] = []
        with pytest.raises(BackendFailed, match="an error was encountered"):
            for batch in run:
                seen += batch
    assert [event.text for event in seen if isinstance(event, TextDelta)] == ["Hel"]


def test_log_probabilities_are_read() -> None:
    told = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}
    line = {"message": {"role": "assistant", "content": "Hi"}, "done": False, "logprobs": [told]}
    with chats(OllamaFake([line, DONE])) as ollama:
        request = CompletionRequest(messages=(Message(role="user", content="x"),), logprobs=1)
        task = Task(prompt="", max_tokens=9, backend_templates=True, request=request, logprobs=1)
        events = [
            event
            for batch in ollama.driver.stream(task, -1, ollama.caps, Cancel())
            for event in batch
        ]
    (text,) = [event for event in events if isinstance(event, TextDelta) and event.text]
    assert [(token.token, token.logprob) for token in text.logprobs] == [("Hi", -0.5)]
    assert msgspec.structs.asdict(text)["text"] == "Hi"


# Lines of its stream, whole and byte by byte.

LINES = (
    b'{"message":{"role":"assistant","content":"","thinking":"So"},"done":false}\n\r\n'
    b'{"message":{"content":"H\xc3\xa9"},"done":false}\n'
    b'{"message":{"content":"","tool_calls":[{"function":{"name":"f","arguments":{"b":1,"a":[]}}},'
    b'{"function":{"index":1,"name":"g","arguments":{}}}]},"done":false}\n'
    b'{"message":{"content":""},"done":true,"done_reason":"length","prompt_eval_count":9,'
    b'"prompt_eval_cached_count":4,"eval_count":2}'
)


@pytest.mark.parametrize("size", [1, 7, len(LINES)])
def test_lines_become_chunks(size: int) -> None:
    frames = Lines()
    events = []
    for at in range(0, len(LINES), size):
        events += frames.feed(LINES[at : at + size])
    events += frames.close()
    assert frames.close() == []
    chunks = [chunk(read_line(data), 3, 7) for _, data in events]
    deltas = [piece.choices[0].delta for piece in chunks]
    assert [delta.reasoning_content for delta in deltas[:1]] == ["So"]
    assert [delta.content for delta in deltas] == ["", "H\u00e9", "", ""]
    calls = [
        (call.index, call.function.name, call.function.arguments)
        for call in deltas[2].tool_calls or ()
    ]
    assert calls == [(3, "f", '{"b":1,"a":[]}'), (4, "g", "{}")]
    assert [piece.choices[0].finish_reason for piece in chunks] == [None, None, None, "length"]
    usage = chunks[-1].usage
    assert usage is not None and usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (9, 2)
    assert usage.prompt_tokens_details.cached_tokens == 4
    assert all(piece.usage is None for piece in chunks[:-1])


def test_a_prompt_without_a_count_keeps_its_estimate() -> None:
    usage = chunk(read_line(b'{"done":true,"eval_count":1}'), 0, 7).usage
    assert usage is not None and usage.prompt_tokens == 7


def test_a_line_without_an_end_is_bounded() -> None:
    frames = Lines()
    with pytest.raises(SSEError, match="too large"):
        for _ in range(MAX_EVENT // (1 << 20) + 1):
            frames.feed(b"x" * (1 << 20))
