"""Chunks of both generations, as real servers sent them."""

from __future__ import annotations

import json
import math

import pytest

from proxy.apis.openai.answer import timings
from proxy.core.events import TokenLogprob
from proxy.wire import lenient, servercpp

OLD_PIECE = b'{"content":" wor","multimodal":false,"slot_id":1,"stop":false}'
OLD_LAST = (
    b'{"content":"","generation_settings":{"n_ctx":2048},"model":"m","prompt":"x","slot_id":1,'
    b'"stop":true,"stopped_eos":false,"stopped_limit":true,"stopped_word":false,'
    b'"stopping_word":"","timings":{"predicted_ms":1.9,"predicted_n":7,"prompt_ms":19.7,'
    b'"prompt_n":95},"tokens_cached":104,"tokens_evaluated":97,"tokens_predicted":7,'
    b'"truncated":false}'
)
NEW_PIECE = (
    b'{"index":0,"content":" wor","tokens":[5],"stop":false,"id_slot":-1,"tokens_predicted":3,'
    b'"tokens_evaluated":9}'
)
NEW_LAST = (
    b'{"index":0,"content":"","tokens":[],"id_slot":1,"stop":true,"model":"m",'
    b'"tokens_predicted":8,"tokens_evaluated":97,"stop_type":"eos","stopping_word":"",'
    b'"truncated":true,"timings":{"cache_n":90,"prompt_n":7,"prompt_ms":2.5,"predicted_n":8,'
    b'"predicted_ms":4.0}}'
)


def test_text_event_of_both_generations() -> None:
    old, new = servercpp.chunk(OLD_PIECE), servercpp.chunk(NEW_PIECE)
    assert (old.content, old.stop, old.slot) == (" wor", False, 1)
    assert (new.content, new.stop, new.slot, new.tokens_predicted) == (" wor", False, -1, 3)


def test_final_event_of_both_generations() -> None:
    old, new = servercpp.chunk(OLD_LAST), servercpp.chunk(NEW_LAST)
    assert (old.finish_reason, old.slot, old.cached, old.truncated) == ("length", 1, 2, False)
    assert (new.finish_reason, new.slot, new.cached, new.truncated) == ("stop", 1, 90, True)
    assert servercpp.times(old.timings, old.cached).prompt_n == 95
    assert servercpp.times(new.timings, new.cached).cache_n == 90


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (b'"stopped_eos":true', "stop"),
        (b'"stopped_word":true', "stop"),
        (b'"stopped_limit":true', "length"),
        (b'"stop_type":"word"', "stop"),
        (b'"stop_type":"limit"', "length"),
        (b'"stop_type":"none"', "length"),
    ],
)
def test_finish_reasons(fields: bytes, reason: str) -> None:
    assert servercpp.chunk(b'{"stop":true,' + fields + b"}").finish_reason == reason


def test_non_numeric_timings_count_as_absent() -> None:
    """An old server divides by zero where one token was made, and writes null."""
    part = servercpp.chunk(b'{"stop":true,"timings":{"prompt_n":1,"prompt_ms":null}}')
    times = servercpp.times(part.timings, part.cached)
    assert times.prompt_ms == 0
    reported = timings(times)
    assert (reported["prompt_per_token_ms"], reported["prompt_per_second"]) == (0, 0)


@pytest.mark.parametrize("raw", [b"", b"no json", b"[1]", b'{"content":5}'])
def test_malformed_event_is_a_wire_fault(raw: bytes) -> None:
    with pytest.raises(lenient.WireFault):
        servercpp.chunk(raw)


def test_logprobs_in_the_old_format() -> None:
    raw = (
        b'{"completion_probabilities":[{"content":"a","probs":['
        b'{"tok_str":"b","prob":0.5},{"tok_str":"a","prob":0.25}]}]}'
    )
    (token,) = servercpp.logprobs(servercpp.chunk(raw).completion_probabilities, 1)
    assert (token.token, token.data) == ("a", b"a")
    assert token.logprob == pytest.approx(-1.386, abs=1e-3)
    assert token.top == (TokenLogprob("b", math.log(0.5), b"b"),)


def test_logprobs_in_the_new_format() -> None:
    raw = (
        b'{"completion_probabilities":[{"id":5,"token":"a","bytes":[97],"logprob":-0.5,'
        b'"top_logprobs":[{"id":5,"token":"a","bytes":[97],"logprob":-0.5},'
        b'{"id":6,"token":"b","bytes":[98],"logprob":null}]}]}'
    )
    (token,) = servercpp.logprobs(servercpp.chunk(raw).completion_probabilities, 2)
    assert (token.token, token.data, token.logprob) == ("a", b"a", -0.5)
    assert [a.logprob for a in token.top] == [-0.5, servercpp.LEAST_LOGPROB]


def test_malformed_logprobs_are_a_wire_fault() -> None:
    part = servercpp.chunk(b'{"completion_probabilities":[{"probs":7}]}')
    with pytest.raises(lenient.WireFault):
        servercpp.logprobs(part.completion_probabilities, 1)


def test_counters_of_the_metrics_page() -> None:
    page = (
        b"# HELP llamacpp:n_decode_total Calls\n# TYPE llamacpp:n_decode_total counter\n"
        b"llamacpp:n_decode_total 12\nllamacpp:rate 0.5\nllamacpp:odd nan\nllamacpp:worse x\n"
        b'llamacpp:per_pos{position="0"} 3\nother:thing 4\n\xff\n'
    )
    assert servercpp.counters(page) == {"n_decode_total": 12.0, "rate": 0.5}


def test_post_sampling_probabilities_become_logprobs_with_ids() -> None:
    top = {"id": 7, "token": "a", "bytes": [97], "prob": 0.5}
    (token,) = servercpp.logprobs([{**top, "top_probs": [top, {**top, "prob": 0.0}]}], 2)
    assert token.id == 7
    assert math.exp(token.logprob) == pytest.approx(0.5)
    assert [candidate.id for candidate in token.top] == [7, 7]
    assert token.top[1].logprob == servercpp.LEAST_LOGPROB


def old_event(stop: bool, *tokens: str) -> bytes:
    """An event of a server of 2023, which sorts the names of fields."""
    said = [{"content": token, "probs": [{"prob": 0.5, "tok_str": token}]} for token in tokens]
    fields = {
        "completion_probabilities": said,
        "content": "end",
        "generation_settings": {"stop": []},
        "slot_id": 1,
        "stop": stop,
        "tokens_predicted": len(tokens),
    }
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize("token", ["a", '],"content":"', '"stop":true', "\\", "深", ""])
def test_last_event_of_an_old_server_loses_only_the_repeated_probabilities(token: str) -> None:
    short = servercpp.without_repeated(old_event(True, token, token))
    assert b"probs" not in short
    whole = servercpp.chunk(old_event(True, token, token))
    whole.completion_probabilities = ()
    assert servercpp.chunk(short) == whole


def test_every_other_event_stays_as_it_is() -> None:
    last = b'{"content":"","stop":true,"tokens_predicted":1}'
    cut = old_event(True, "a")[:40]
    for data in (old_event(False, "a"), old_event(False, '"stop":true'), last, cut, b"", b"[1"):
        assert servercpp.without_repeated(data) == data


def test_lenient_json_size_is_bounded() -> None:
    assert len(lenient.value(b'"' + b"x" * (lenient.LONGEST - 2) + b'"')) == lenient.LONGEST - 2
    with pytest.raises(lenient.WireFault, match="too large"):
        lenient.value(b'"' + b"x" * (lenient.LONGEST - 1) + b'"')
