"""Every script of events in every dialect, streamed and whole.

What is heard of a stream is what the script says, a whole answer says the same, every frame is well
formed whatever the text, a failure is the last thing told, and silence harms nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from proxy.apis import anthropic
from proxy.apis.glm import chat as glm
from proxy.apis.llamacpp import native as llamacpp_native
from proxy.apis.ollama.dialects import chat as ollama_chat
from proxy.apis.ollama.dialects import generate as ollama_generate
from proxy.apis.openai import answer as openai_answer
from proxy.apis.openai import chat as openai_chat
from proxy.apis.openai import completions as openai_completions
from proxy.apis.response_meta import ResponseMeta
from proxy.apis.responses import answer as responses
from proxy.apis.responses.request import parse as parse_response
from proxy.core.events import Batch, Failed, Finished, Started, TextDelta
from proxy.core.fold import fold
from proxy.core.request import CompletionRequest, Message
from proxy.core.usage import Usage
from proxy.errors import UpstreamFault
from proxy.gateway import Answer, Info
from proxy.server.http1 import Last
from proxy.web.stream import SlotBody, encoded
from tests.contract import ears
from tests.contract.ears import Heard
from tests.contract.scripts import SCRIPTS, Script

STAMP = ResponseMeta("id_0123", 1_700_000_000, "tiny", "fp", lambda: 0.25)
ASKED = parse_response({"input": "Hi", "model": "tiny"})


class Responses:
    """The Responses dialect with its request."""

    error = staticmethod(openai_answer.error)

    def Encoder(self, meta: ResponseMeta, request: CompletionRequest) -> responses.Encoder:
        return responses.Encoder(meta, ASKED, lambda _: None)

    def reply(self, meta: ResponseMeta, request: CompletionRequest, completions: Any) -> Any:
        return responses.whole(meta, ASKED, completions)


class Voice(Struct):
    """A dialect under test, and how it is heard. `tells` is what it can express besides text;
    `words` are its finish reasons; `parsed`: calls are sent whole, with arguments as objects."""

    dialect: Any
    stream: Callable[[bytes], Heard]
    whole: Callable[[Any], Heard]
    words: dict[str, str]
    tells: str
    parsed: bool = False


def voice(dialect: Any, name: str, words: Any, tells: str, **more: Any) -> Voice:
    stream, whole = (getattr(ears, f"{name}_{form}") for form in ("stream", "whole"))
    return Voice(dialect, stream, whole, words, tells, **more)


OPENAI = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "word": "stop"}
OLLAMA = {**OPENAI, "tool_calls": "stop"}
NATIVE = {"stop": "eos", "length": "limit", "word": "word"}
ANTHROPIC = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "word": "stop_sequence",
}
GLM = dict.fromkeys(("stop", "length", "word"), "end")
RESPONSES = {**dict.fromkeys(("stop", "tool_calls", "word"), "completed"), "length": "incomplete"}
ALL = "calls thoughts"
VOICES = {
    "openai chat": voice(openai_chat, "chat", OPENAI, f"{ALL} choices"),
    "openai completions": voice(openai_completions, "completions", OPENAI, "choices"),
    "both completions": voice(openai_completions.both, "completions", OPENAI, "choices"),
    "llama.cpp": voice(llamacpp_native.completion, "native", NATIVE, "choices"),
    "anthropic": voice(anthropic, "anthropic", ANTHROPIC, ALL),
    "ollama chat": voice(ollama_chat, "ollama_chat", OLLAMA, ALL, parsed=True),
    "ollama generate": voice(ollama_generate, "ollama_generate", OLLAMA, "thoughts"),
    "glm": voice(glm.chat_stream, "glm", GLM, ""),
    "responses": voice(Responses(), "responses", RESPONSES, ALL),
}


def fits(voice: Voice, script: Script) -> bool:
    """Whether a request of this dialect can lead to this script."""
    return ("calls" in voice.tells or not script.calls) and (
        "choices" in voice.tells or len(script.text) == 1
    )


PAIRS = [
    pytest.param(voice, script, id=f"{name} tells {title}")
    for name, voice in VOICES.items()
    for title, script in SCRIPTS.items()
    if fits(voice, script)
]


def request_of(script: Script) -> CompletionRequest:
    return CompletionRequest(
        messages=(Message(role="user", content="Hi"),),
        stream=True,
        include_usage=True,
        stop=("STOP",),
        n=len(script.text),
        logprobs=1,
    )


class Telling:
    """An answer that plays a script."""

    info = Info()

    def __init__(self, steps: tuple[tuple[int, Batch], ...]) -> None:
        self.request = CompletionRequest(n=1 + max(choice for choice, _ in steps))
        self._steps = steps
        self.closed = 0

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        return iter([(choice, list(batch)) for choice, batch in self._steps])

    def close(self) -> None:
        self.closed += 1


def streamed(voice: Voice, script: Script, usage: bool = True) -> list[bytes]:
    telling = Telling(script.steps)
    request = msgspec.structs.replace(request_of(script), include_usage=usage)
    encoder = voice.dialect.Encoder(STAMP, request)
    body = SlotBody(encoded(cast(Answer, telling), encoder), telling.close, lambda: None)
    parts = list(body)
    body.close()
    assert telling.closed == 1
    return parts


def arguments(text: str) -> Any:
    """The arguments of a call as an object; truncated ones are empty."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return {}


def agree(voice: Voice, script: Script, heard: Heard, calls: bool = True) -> None:
    for i, text in enumerate(script.text):
        assert heard.text.get(i, "") == text
    if "thoughts" in voice.tells:
        assert heard.thoughts == script.thoughts
    if calls:
        received = [(name, arguments(args)) for name, args in heard.calls]
        scripted = [(name, arguments(args)) for name, args in script.calls]
        # Where arguments are an object, a truncated call cannot be marked and is dropped.
        assert received == [
            call for call in scripted if call[1] or script.reason != "length" or not voice.parsed
        ]


@pytest.mark.parametrize(("voice", "script"), PAIRS)
def test_stream_contains_the_scripted_events(voice: Voice, script: Script) -> None:
    parts = streamed(voice, script)
    ending = b"\n" if voice.dialect is ollama_chat or voice.dialect is ollama_generate else b"\n\n"
    # Each write ends with a frame, so a client that reads chunks reads whole frames.
    assert all(part == b"" or part.endswith(ending) for part in parts)
    heard = voice.stream(b"".join(parts))
    # Ollama sends whole calls, so none before a failure.
    agree(voice, script, heard, calls=script.reason is not None or not voice.parsed)
    if script.reason is None:
        steps = script.steps[-1][1]
        assert isinstance(steps[-1], Failed)
        assert heard.error and not heard.reason
        return
    assert heard.reason == voice.words["word" if script.stop else script.reason]
    # Three tokens for each choice; the prompt counts once.
    last = 3 if voice is VOICES["llama.cpp"] else 3 * len(script.text)
    assert heard.counts == (7, last)
    assert not heard.error


@pytest.mark.parametrize(
    ("voice", "script"), [pair for pair in PAIRS if pair.values[1].reason is not None]
)
def test_whole_answer_equals_streamed_answer(voice: Voice, script: Script) -> None:
    reply = voice.dialect.reply(STAMP, request_of(script), fold(script.steps))
    whole = voice.whole(msgspec.json.decode(msgspec.json.encode(reply)))
    stream = voice.stream(b"".join(streamed(voice, script)))
    agree(voice, script, whole)
    assert (whole.reason, whole.counts) == (stream.reason, stream.counts)


@pytest.mark.parametrize("name", VOICES)
@given(pieces=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), max_size=6))
def test_any_text_survives_encoding(name: str, pieces: list[str]) -> None:
    batches: list[Batch] = [[Started()]]
    batches += [[TextDelta(p)] for p in pieces]
    batches.append([Finished(reason="stop", usage=Usage(7, 3))])
    script = Script(tuple((0, batch) for batch in batches), ("".join(pieces),))
    agree(VOICES[name], script, VOICES[name].stream(b"".join(streamed(VOICES[name], script))))


@pytest.mark.parametrize("voice", [pytest.param(v, id=k) for k, v in VOICES.items()])
def test_error_has_only_a_message(voice: Voice) -> None:
    message = json.dumps(voice.dialect.error(UpstreamFault("it broke", detail="at 10.0.0.1")))
    assert "it broke" in message
    assert "10.0.0.1" not in message


@pytest.mark.parametrize("voice", [pytest.param(v, id=k) for k, v in VOICES.items()])
def test_end_of_stream_is_sent_with_its_last_event(voice: Voice) -> None:
    for title, script in SCRIPTS.items():
        if fits(voice, script):
            parts = streamed(voice, script)
            whole = isinstance(script.steps[-1][1][-1], Finished)
            assert [type(part) is Last for part in parts] == [False] * (len(parts) - 1) + [whole]
            assert len(parts) <= len(script.steps), title
