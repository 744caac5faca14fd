"""JSON inside texts: as a value where that costs little."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.decoding import Decoding, decode_sure, decoded
from proxy.core.request import Message, ToolCall
from proxy.prompting.profile.adapt import as_dicts


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 3000 + "1" + "}" * 3000, "{", "\ud800"])
def test_invalid_json_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        decoded(text)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_number_of_a_body_is_the_nearest_one(number: float) -> None:
    text = str(number).encode()
    assert repr(decode_sure(text)) == repr(msgspec.json.decode(text)) == repr(number)


@pytest.mark.parametrize("text", [b"1e999", b"[-1.5e400]", b"1.", b"1e", b"1.5.5", b"[1.0,"])
def test_no_number_of_a_body_has_the_same_error(text: bytes) -> None:
    with pytest.raises(msgspec.DecodeError) as usual:
        msgspec.json.decode(text)
    with pytest.raises(msgspec.DecodeError) as raised:
        decode_sure(text)
    assert str(raised.value) == str(usual.value)


def test_many_texts_share_one_decoding_bound() -> None:
    text = "[" + ",".join(["1.5e300"] * 1000) + "]"
    decode = Decoding()
    with pytest.raises(ValueError, match="too long"):
        for _ in range(20):
            decode(text)
    assert decoded(text) == [1.5e300] * 1000


@pytest.mark.parametrize(
    "arguments",
    ['{"a":' * 3000 + "1" + "}" * 3000, '{"a":[' + "[]," * 1_000_000 + "1]}"],
    ids=["deep", "long"],
)
def test_expensive_call_arguments_stay_text(arguments: str) -> None:
    calls = tuple(ToolCall(f"c{i}", "f", text) for i, text in enumerate(('{"a":1}', arguments)))
    (turn,) = as_dicts([Message(role="assistant", tool_calls=calls)])
    assert [call["function"]["arguments"] for call in turn["tool_calls"]] == [{"a": 1}, arguments]
