"""Frames between the HTTP side and the engine."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.chatglm import protocol
from proxy.backends.chatglm.protocol import (
    Began,
    ByeMessage,
    CancelMessage,
    ChatTurn,
    Decode,
    Delta,
    DoneMessage,
    Encode,
    Frames,
    Generate,
    PromptMessage,
    Ready,
    RefusedMessage,
)

ORDERS: list[protocol.Order] = [
    Generate(
        id=1,
        prompt=PromptMessage(turns=(ChatTurn("user", "你好"), ChatTurn("assistant", "x", "f"))),
        max_tokens=None,
        temperature=0,
        top_p=1,
        top_k=0,
        repeat_penalty=1,
    ),
    Generate(
        id=2,
        prompt=PromptMessage(text="a"),
        max_tokens=5,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        repeat_penalty=1.1,
        marks=True,
    ),
    Encode(3, PromptMessage(ids=(1, 2)), plain=True),
    Decode(4, (7, 8)),
    CancelMessage(2),
]
REPORTS: list[protocol.Report] = [
    Ready("glm-4", 2048, 100, "0.4.2", 77),
    ByeMessage(),
    Began(1, 9),
    Delta(1, "你\0\n", 2),
    DoneMessage(1, "stop", 3, 1.5, 2.5),
    RefusedMessage(2, "context", "", 70, 64),
]


@pytest.mark.parametrize("order", ORDERS, ids=lambda one: type(one).__name__)
def test_orders_survive_the_wire(order: protocol.Order) -> None:
    (data,) = Frames().feed(protocol.pack(order))
    assert protocol.read_order(data) == order


@pytest.mark.parametrize("report", REPORTS, ids=lambda one: type(one).__name__)
def test_reports_survive_the_wire(report: protocol.Report) -> None:
    (data,) = Frames().feed(protocol.pack(report))
    assert protocol.read_report(data) == report


@given(st.lists(st.integers(1, 40), min_size=1))
def test_frames_are_read_whole_however_split(cuts: list[int]) -> None:
    stream = b"".join(protocol.pack(one) for one in REPORTS)
    frames, out, at = Frames(), [], 0
    while at < len(stream):
        size = cuts[at % len(cuts)]
        out += frames.feed(stream[at : at + size])
        at += size
    assert [protocol.read_report(one) for one in out] == REPORTS


def test_invalid_frame_length_is_refused() -> None:
    with pytest.raises(ValueError, match="a frame of"):
        Frames().feed(b"\xff\xff\xff\xff")


@given(st.binary(max_size=60))
def test_garbage_is_not_a_frame(data: bytes) -> None:
    for read in (protocol.read_order, protocol.read_report):
        try:
            read(data)
        except msgspec.DecodeError:
            continue
