"""The server.cpp driver on recorded bytes of old and new servers, and on every fault."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from proxy.backends import llamacpp
from proxy.backends.driver import Capabilities
from proxy.backends.llamacpp import OLD_CONNECTIONS, OLD_RESERVE, LlamaCpp, payload
from proxy.core.events import Batch, Finished, Progress, Started, TextDelta, TokenDetail
from proxy.core.request import CompletionRequest, Report
from proxy.core.task import Task
from proxy.core.usage import Timings, Usage
from proxy.errors import (
    BackendFailed,
    CharacterCut,
    GatewayError,
    Unsupported,
)
from proxy.runtime.cancel import Cancel

from .rawserver import chunk, event, head, llama, streamed

OLD = Capabilities(dialect="2023")
NEW = Capabilities(
    dialect="llama-server", slot_field="id_slot", queues=True, truncates=False, modern_sampling=True
)
TASK = Task(prompt="Hi", max_tokens=9, stop_tokens=("</s>",), sampling={"temperature": 0.5})


def old_last(**fields: Any) -> bytes:
    whole = {"content": "", "stop": True, "slot_id": 1, "tokens_evaluated": 6, "truncated": False}
    whole |= {"tokens_predicted": 2, "stopped_eos": True, "timings": {"prompt_n": 2}}
    return event(**(whole | fields))


def run(answer: Any, caps: Capabilities = OLD, task: Task = TASK) -> list[Batch]:
    """Plays an answer to a driver and returns its events."""
    with llama([answer]) as (driver, _):
        stream = driver.stream(task, 1, caps, Cancel())
        try:
            return [batch for batch in stream if batch]
        finally:
            stream.close()


def flat(batches: list[Batch]) -> list[Any]:
    return [one for batch in batches for one in batch]


def test_stream_of_old_server() -> None:
    piece = {"stop": False, "slot_id": 1, "multimodal": False}
    events = flat(
        run(streamed(event(content="你", **piece), event(content="好", **piece), old_last()))
    )
    assert events[:2] == [Started(slot=1), TextDelta("你好", (), 2)]
    last = events[2]
    assert (last.reason, last.usage, last.slot) == ("stop", Usage(6, 2, 4), 1)


@pytest.mark.parametrize(
    ("caps", "wanted", "allowed", "sent"),
    [
        (NEW, None, 100, None),
        (NEW, 100, 100, 100),
        (NEW, None, 60, 60),  # what a key may use, or what the prompt leaves of the context
        (OLD, None, 100, 99),
    ],
)
def test_length_that_nobody_asked_for_is_that_of_a_new_server(
    caps: Capabilities, wanted: int | None, allowed: int, sent: int | None
) -> None:
    request = CompletionRequest(max_tokens=wanted)
    task = msgspec.structs.replace(TASK, max_tokens=allowed, request=request)
    with llama([streamed(old_last())]) as (driver, server):
        stream = driver.stream(task, 1, msgspec.structs.replace(caps, n_ctx=100), Cancel())
        list(stream)
        stream.close()
    body = json.loads(server.requests[-1].partition(b"\r\n\r\n")[2])
    assert body.get("n_predict") == sent


def test_stream_of_new_server() -> None:
    progress = {"total": 9, "cache": 4, "processed": 6, "time_ms": 1}
    parts = [
        event(content="", stop=False, id_slot=-1, prompt_progress=progress),
        event(content="a", stop=False, id_slot=-1, tokens_predicted=1, tokens_evaluated=9),
        event(
            content="", stop=True, id_slot=3, tokens_predicted=2, tokens_evaluated=9,
            stop_type="limit", timings={"cache_n": 4, "prompt_n": 5},
        ),
    ]  # fmt: skip
    events = flat(run(streamed(*parts), NEW))
    assert events[:3] == [Started(slot=-1, prompt=9), Progress(9, 4, 6, 1.0), TextDelta("a")]
    assert isinstance(events[3], Finished)
    assert (events[3].reason, events[3].usage, events[3].slot) == ("length", Usage(9, 2, 4), 3)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_tokens_beyond_max_tokens_of_old_server_are_dropped(limit: int) -> None:
    piece = event(content="a", stop=False, slot_id=0)
    last = old_last(tokens_predicted=3, stopped_eos=False, stopped_limit=True)
    events = flat(run(streamed(*[piece] * 4, last), task=Task(prompt="Hi", max_tokens=limit)))
    text = [event for event in events if isinstance(event, TextDelta)]
    assert "".join(event.text for event in text) == "a" * limit
    assert sum(event.pieces for event in text) == limit
    assert (events[-1].reason, events[-1].usage.completion) == ("length", limit)


def test_text_of_one_read_is_one_delta() -> None:
    pieces = [event(content=text, stop=False, slot_id=0) for text in ("a", "b", "c", "d")]
    last = old_last(tokens_predicted=4, stopped_eos=True)
    started, *text, _ = flat(run(streamed(*pieces, last)))
    assert isinstance(started, Started)
    assert text == [TextDelta("abcd", (), 4)]


def test_request_body_for_old_server() -> None:
    assert payload(TASK, 1, OLD) == {
        "prompt": "Hi",
        "stream": True,
        "cache_prompt": True,
        "slot_id": 1,
        "n_predict": 8,
        "stop": ("</s>",),
        "temperature": 0.5,
    }


def test_old_server_gets_no_unknown_fields() -> None:
    task = Task(prompt="Hi", max_tokens=9, sampling={"xtc_probability": 0.5, "top_k": 4})
    with pytest.raises(Unsupported) as caught:
        payload(task, 0, OLD)
    assert caught.value.param == "xtc_probability"
    assert payload(task, 0, NEW)["xtc_probability"] == 0.5


def test_sampler_values_that_crash_old_server_are_adjusted() -> None:
    task = Task(prompt="Hi", max_tokens=9, sampling={"repeat_last_n": 4096, "temperature": 0.00001})
    body = payload(task, 0, OLD)
    assert (body["repeat_last_n"], body["temperature"]) == (64, 0)


# more answers than connections to an old server


@pytest.fixture
def full() -> Iterator[LlamaCpp]:
    """A driver with all connections for answers in use."""
    begun = head(None) + chunk(event(content="a", slot_id=0))
    props = head(2) + b"{}"
    streams = [[begun]] * (OLD_CONNECTIONS - OLD_RESERVE)
    with llama(*streams, [props, begun]) as (driver, _):
        runs = [driver.stream(TASK, 0, OLD, Cancel()) for _ in streams]
        yield driver
        for run in runs:
            run.close()


def test_alive_returns_in_time_without_free_connection(
    full: LlamaCpp, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert full.alive()
    monkeypatch.setattr(llamacpp, "ALIVE_TIMEOUT", 0.5)
    held = full._careful.send("POST", "/tokenize", {}, short=True)
    began = time.monotonic()
    assert full.alive(), "a backend that is at work was called dead"
    assert 0.4 < time.monotonic() - began < 20.0, "the driver's own timeout is 60 s"
    held.close()


REPORT = Report(progress=True, timings=True, tokens=True, settings=True)
REPORTING = msgspec.structs.replace(TASK, request=CompletionRequest(stream=True, report=REPORT))


def reported(*, progresses: bool = True) -> bytes:
    """A stream that arrives in one read."""
    told = {"cache_n": 1, "prompt_n": 2, "prompt_ms": 4.0, "predicted_n": 1, "predicted_ms": 0.5}
    piece = {"stop": False, "id_slot": 0, "tokens_evaluated": 3}
    progress = {"total": 3, "cache": 1, "processed": 3, "time_ms": 4}
    return streamed(
        event(content="", **piece, prompt_progress=progress, timings=told) * progresses
        + event(content="a", **piece, tokens=[5], tokens_predicted=1, timings=told)
        + event(content="b", **piece, tokens=[6, 7], tokens_predicted=2, timings=told)
        + event(
            content="", stop=True, id_slot=0, stop_type="limit", tokens_evaluated=3,
            tokens_predicted=2, timings=told, generation_settings={"top_k": 40}, prompt="<s> Hi",
        )
    )  # fmt: skip


def test_token_reports_follow_their_text() -> None:
    times = Timings(cache_n=1, prompt_n=2, prompt_ms=4.0, predicted_n=1, predicted_ms=0.5)
    events = flat(run(reported(), NEW, REPORTING))
    assert events[:-1] == [
        Started(slot=0, prompt=3),
        Progress(3, 1, 3, 4.0, times),
        TextDelta("a"),
        TokenDetail(times, (5,)),
        TextDelta("b"),
        TokenDetail(times, (6, 7)),
    ]
    assert (events[-1].settings, events[-1].prompt) == ({"top_k": 40}, "<s> Hi")


def test_settings_come_with_the_end_of_an_answer_in_one_read() -> None:
    request = CompletionRequest(stream=True, report=Report(settings=True))
    task = msgspec.structs.replace(TASK, request=request)
    *_, text, last = flat(run(reported(progresses=False), NEW, task))
    assert text == TextDelta("ab", (), 2)
    assert (last.settings, last.prompt) == ({"top_k": 40}, "<s> Hi")


def test_token_reports_are_requested_where_supported() -> None:
    body = payload(REPORTING, 0, NEW)
    assert (body["return_progress"], body["timings_per_token"]) == (True, True)
    assert {"generation_settings", "prompt"} <= set(body["response_fields"])
    assert not {"return_progress", "timings_per_token"} & payload(REPORTING, 0, OLD).keys()
    assert not {"return_progress", "timings_per_token"} & payload(TASK, 0, NEW).keys()


def test_logit_bias_texts_become_ids_for_old_server() -> None:
    answer = b'{"tokens":[5,6]}'
    tokens = head(len(answer)) + answer
    biased = {"logit_bias": [["the", -1], [9, False]]}
    task = msgspec.structs.replace(TASK, sampling=biased)
    with llama([tokens, streamed(old_last())]) as (driver, server):
        list(driver.stream(task, 1, OLD, Cancel()))
        sent = json.loads(server.requests[-1].partition(b"\r\n\r\n")[2])
    assert sent["logit_bias"] == [[5, -1], [6, -1], [9, False]]
    assert payload(task, 1, NEW)["logit_bias"] == biased["logit_bias"]


PIECES = [{"id": 5, "piece": "a"}, {"id": 6, "piece": [229, 165]}]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"tokens": PIECES}, [(5, b"a"), (6, b"\xe5\xa5")]),
        ({"tokens": []}, []),
        ({"tokens": [5, 6]}, None),  # of an old server
    ],
)
def test_token_pieces_come_from_the_server_where_supported(answer: Any, expected: Any) -> None:
    data = json.dumps(answer).encode()
    refused = contextlib.nullcontext() if expected is not None else pytest.raises(Unsupported)
    with llama([head(len(data)) + data]) as (driver, _), refused:
        assert driver.pieces("text", False) == expected


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"[json.exception.type_error.316] invalid UTF-8 byte at index 1: 0xFC", CharacterCut),
        (b"[json.exception.type_error.316] incomplete UTF-8 string; last byte: 0xE5", CharacterCut),
        (b"std::bad_alloc", BackendFailed),
    ],
)
def test_ids_that_old_server_cannot_detokenize_are_bad_request(
    said: bytes, error: type[GatewayError]
) -> None:
    body = b"500 Internal Server Error\n" + said
    answer = head(len(body), "500 Internal Server Error") + body
    with llama([answer]) as (driver, _), pytest.raises(error) as raised:
        driver.detokenize([3, 255])
    assert raised.type is error
