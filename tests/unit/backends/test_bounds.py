"""Each bound on what a backend sends, at its limit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.backends.connections import READ_SIZE
from proxy.backends.driver import Capabilities
from proxy.backends.http import MAX_FRAME, MAX_READ, MAX_WHOLE, ConnectionPool, ForwardedAnswer
from proxy.backends.probe import MAX_ANSWER, document
from proxy.backends.refusals import MAX_BODY
from proxy.backends.run import FORGIVEN_TEXT, TOKEN_TEXT
from proxy.core.events import Batch, Finished, TextDelta
from proxy.core.task import Call, Task
from proxy.errors import BadRequest, UpstreamFault
from proxy.runtime.cancel import Cancel
from proxy.wire.sse import MAX_EVENT, Decoder, SSEError

from .rawserver import RawServer, event, head, llama, streamed

OLD = Capabilities(dialect="2023")


def play(answer: bytes, logprobs: int | None = None) -> list[Batch]:
    """The events of a scripted answer to a request for one token."""
    with llama([answer]) as (driver, _):
        task = Task(prompt="Hi", max_tokens=1, logprobs=logprobs)
        stream = driver.stream(task, 0, OLD, Cancel())
        try:
            return [batch for batch in stream if batch]
        finally:
            stream.close()


def ask(answer: bytes) -> tuple[int, bytes]:
    with RawServer([answer]) as server:
        pool = ConnectionPool(server.url, timeout=60, connect_timeout=20, idle=0)
        return pool.ask("GET", "/x")


def test_size_of_whole_answer_is_bounded() -> None:
    status, body = ask(head(MAX_WHOLE) + b"x" * MAX_WHOLE)
    assert (status, len(body)) == (200, MAX_WHOLE)
    with pytest.raises(UpstreamFault, match="too large"):
        ask(head(MAX_WHOLE + 1) + b"x" * (MAX_WHOLE + 1))


def test_size_of_a_document_is_bounded() -> None:
    def document_of(size: int) -> tuple[int, Any]:
        with RawServer([head(size) + b'{"a": "' + b"x" * (size - 9) + b'"}']) as server:
            return document(ConnectionPool(server.url, idle=0), "/props")

    status, answer = document_of(MAX_ANSWER)
    assert (status, len(answer["a"])) == (200, MAX_ANSWER - 9)
    assert document_of(MAX_ANSWER + 1) == (0, {})


def test_response_head_size_is_bounded() -> None:
    def sized(size: int) -> bytes:
        rest = head(0, extra="X: \r\n")
        return head(0, extra="X: " + "x" * (size - len(rest)) + "\r\n")

    assert ask(sized(MAX_FRAME)) == (200, b"")
    with pytest.raises(UpstreamFault, match="headers are too large"):
        ask(sized(MAX_FRAME + READ_SIZE + 1))  # data of the first read is not counted


def test_refusal_body_size_is_bounded() -> None:
    def refused(size: int) -> bytes:
        start, end = b'{"error":"no such thing', b'"}'
        return head(size, "400 Bad Request") + start + b" " * (size - len(start) - len(end)) + end

    with pytest.raises(BadRequest, match="no such thing"):
        play(refused(MAX_BODY))
    with pytest.raises(UpstreamFault, match="too large"):
        play(refused(MAX_BODY + 1))


def test_text_length_is_bounded_by_requested_tokens() -> None:
    """One token is requested; its text may have this length in one piece."""

    def answer(size: int) -> bytes:
        last = {"content": "", "stop": True, "slot_id": 0, "tokens_predicted": 1}
        text = event(content="x" * size, stop=False, slot_id=0)
        return streamed(text, event(**last, tokens_evaluated=1))

    most = TOKEN_TEXT + FORGIVEN_TEXT
    texts = [one.text for batch in play(answer(most)) for one in batch if type(one) is TextDelta]
    assert len("".join(texts)) == most
    with pytest.raises(UpstreamFault) as told:
        play(answer(most + 1))
    assert told.value.detail == "more text than its tokens can represent"


def test_stream_event_size_is_bounded() -> None:
    def fed(size: int) -> list[Any]:
        decoder = Decoder()
        data = b"data: " + b"x" * (size - 6)
        for at in range(0, size, READ_SIZE):
            assert decoder.feed(data[at : at + READ_SIZE]) == []
        return decoder.feed(b"\n\n")

    assert len(fed(MAX_EVENT)[0][1]) == MAX_EVENT - 6
    with pytest.raises(SSEError):
        fed(MAX_EVENT + READ_SIZE + 1)  # data of the first read is not counted


def test_repeated_probabilities_of_an_answer_are_not_bounded() -> None:
    """A server of 2023 repeats the probabilities of all tokens in its last event."""
    token = {"content": "a", "probs": [{"prob": 0.5, "tok_str": "a"}] * 1000}

    def answered(tokens: int) -> list[Any]:
        text = event(completion_probabilities=[token], content="a", slot_id=0, stop=False)
        last = {"content": "", "slot_id": 0, "stop": True, "tokens_evaluated": 1}
        probabilities = {"completion_probabilities": [token] * tokens}
        end = event(**probabilities, **last, tokens_predicted=1)
        return [part for batch in play(streamed(text, end), logprobs=1) for part in batch]

    size = len(json.dumps(token, separators=(",", ":")))
    for tokens in (1, 400):
        _, text, last = answered(tokens)
        assert (text.text, len(text.logprobs)) == ("a", 1)
        assert type(last) is Finished
        assert (last.reason, last.usage.completion) == ("length", 1)
    with pytest.raises(UpstreamFault):  # no event of the probabilities of one token is so large
        too_large = [token] * (MAX_EVENT // size + 10)
        play(streamed(event(completion_probabilities=too_large, content="a")), logprobs=1)


def test_text_of_a_recording_is_bounded() -> None:
    def text(size: int) -> bytes:
        with RawServer([head(size) + b"x" * size]) as server:
            pool, call = ConnectionPool(server.url, idle=0), Call("POST", "/inference")
            return ForwardedAnswer(pool, call, call.path, Cancel(), tick=60, timeout=60).read_all()

    assert len(text(MAX_READ)) == MAX_READ
    with pytest.raises(UpstreamFault, match="too large"):
        text(MAX_READ + 1)
