"""Server-sent events: framing, whole and cut anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire import sse

CASES = {
    "one": (b'data: {"a":1}\n\n', [("", b'{"a":1}')]),
    "two in a read": (b"data: 1\n\ndata: 2\n\n", [("", b"1"), ("", b"2")]),
    "CRLF": (b"data: 1\r\n\r\ndata: 2\r\n\r\n", [("", b"1"), ("", b"2")]),
    "CR alone": (b"data: 1\r\rdata: 2\r\r", [("", b"1"), ("", b"2")]),
    "comments": (b": ping\n\ndata: 1\n\n:\n\n", [("", b"1")]),
    "named": (b"event: delta\ndata: 1\n\n", [("delta", b"1")]),
    "several lines": (b"data: a\ndata: b\n\n", [("", b"a\nb")]),
    "no space": (b"data:1\n\n", [("", b"1")]),
    "other fields": (b"id: 7\nretry: 5\ndata: 1\n\n", [("", b"1")]),
    "an old server's error": (b'error: {"content":"x"}\n\n', [("error", b'{"content":"x"}')]),
    "odd separators inside": (
        "data: a\u2028b\u0085c\n\n".encode(),
        [("", "a\u2028b\u0085c".encode())],
    ),
    "nothing": (b"", []),
    "last without its blank line": (b"data: 1\n\ndata: 2\n", [("", b"1"), ("", b"2")]),
}


def together(decoder: sse.Decoder, data: bytes, is_quick: bool) -> list[sse.Event]:
    """As a driver reads: the quick way where there is one."""
    plain = decoder.plain(data) if is_quick else None
    return decoder.feed(data) if plain is None else [("", payload) for payload in plain]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("is_quick", [True, False])
def test_events_are_the_same_however_they_come(name: str, size: int, is_quick: bool) -> None:
    raw, expected = CASES[name]
    decoder = sse.Decoder()
    events = [
        event
        for i in range(0, len(raw), size)
        for event in together(decoder, raw[i : i + size], is_quick)
    ]
    assert events + decoder.close() == expected


def test_stream_truncated_inside_a_line_is_an_error() -> None:
    decoder = sse.Decoder()
    assert decoder.feed(b'data: {"a"') == []
    with pytest.raises(sse.SSEError):
        decoder.close()


def test_endless_event_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT", 100)
    with pytest.raises(sse.SSEError):
        sse.Decoder().feed(b"data: " + b"x" * 200)


@given(
    st.lists(st.binary(min_size=1).filter(lambda b: not {10, 13} & set(b))),
    st.lists(st.integers(1, 9), min_size=1),
    st.sampled_from([b"\n", b"\r\n"]),
)
def test_any_data_survives_any_split(payloads: list[bytes], cuts: list[int], end: bytes) -> None:
    raw = b"".join(b"data: " + p + end + end for p in payloads)
    decoder = sse.Decoder()
    got, at, i = [], 0, 0
    while at < len(raw):
        step = cuts[i % len(cuts)]
        got += decoder.feed(raw[at : at + step])
        at, i = at + step, i + 1
    got += decoder.close()
    assert got == [("", p) for p in payloads]
