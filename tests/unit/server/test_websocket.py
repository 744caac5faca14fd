"""A WebSocket on a socket: messages, bounds, and its end."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from wsproto.events import CloseConnection, Pong, TextMessage

from proxy.server import websocket
from proxy.server.websocket import WebSocket, accepted
from tests.ws import ACCEPT, KEY, Client

LONGEST = 100


class Ends:
    """Both ends of a connection."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
        self.gone = threading.Event()
        self.server = WebSocket(
            ours,
            ACCEPT,
            [("x-request-id", "7")],
            longest=LONGEST,
            send_timeout=5.0,
            on_close=self.gone.set,
        )
        self.client = Client(theirs)
        self._ours = ours

    def close(self) -> None:
        self.client.close()
        self.server.close()
        self._ours.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.close()


def test_key_is_answered_as_in_the_standard() -> None:
    assert accepted(KEY) == ACCEPT
    assert accepted("") is None
    assert accepted("!!!!") is None
    assert accepted("c2hvcnQ=") is None


def test_messages_are_exchanged(ends: Ends) -> None:
    head = ends.client.head.decode()
    assert head.startswith("HTTP/1.1 101 ") and f"Sec-WebSocket-Accept: {ACCEPT}" in head
    assert "x-request-id: 7" in head
    ends.client.say("hello")
    assert ends.server.receive(5.0) == "hello"
    ends.server.send("你好")
    assert ends.client.text() == "你好"


def test_fragments_are_one_message(ends: Ends) -> None:
    for piece, over in (("hel", False), ("", False), ("lo", True)):
        ends.client.send(TextMessage(data=piece, message_finished=over))
    assert ends.server.receive(5.0) == "hello"


def test_last_ping_of_many_is_answered(ends: Ends) -> None:
    pings = b"".join(b"\x89\x81\0\0\0\0%c" % (65 + number) for number in range(20))
    ends.client.sock.sendall(pings)
    assert ends.client.next() == Pong(payload=b"T")


@pytest.mark.parametrize("frame", [b"\x89\x80aaaa", b"\x8a\x80aaaa", b"\x00\x80aaaa"])
def test_frames_that_carry_nothing_are_bounded(ends: Ends, frame: bytes) -> None:
    ends.client.send(TextMessage(data="x", message_finished=False))
    ends.client.sock.sendall(frame * (websocket.MOST_CONTROL + 1))
    assert ends.client.closed() == 1008
    assert ends.server.receive(5.0) is None


def test_fragments_of_a_message_are_bounded(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "MOST_FRAGMENTS", 50)
    for over in (False,) * 49 + (True,):
        ends.client.send(TextMessage(data="x", message_finished=over))
    assert ends.server.receive(5.0) == "x" * 50
    for _ in range(51):
        ends.client.send(TextMessage(data="x", message_finished=False))
    assert ends.client.closed() == 1008


@pytest.mark.parametrize("whole", [True, False])
def test_length_of_a_message_is_bounded(ends: Ends, whole: bool) -> None:
    ends.client.say("x" * LONGEST)
    if whole:
        ends.client.say("é" * (LONGEST // 2) + "e")
    else:
        ends.client.send(TextMessage(data="x" * LONGEST, message_finished=False))
        ends.client.send(TextMessage(data="x", message_finished=True))
    assert ends.client.closed() == 1009
    assert ends.server.receive(5.0) == "x" * LONGEST
    assert ends.server.receive(5.0) is None


def test_number_of_waiting_messages_is_bounded(ends: Ends) -> None:
    for _ in range(websocket.MOST_WAITING + 1):
        ends.client.say("x")
    assert ends.client.closed() == 1008


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x82\x81\0\0\0\0x", 1003),  # binary
        (b"\x83\x80\0\0\0\0", 1002),  # an unknown opcode
        (b"\x88\x82\0\0\0\0\x03\xe8", 1000),  # the client closes
        (b"", None),  # the client leaves
    ],
)
def test_end_is_noticed_and_answered(ends: Ends, frame: bytes, code: int | None) -> None:
    ends.client.sock.sendall(frame)
    if code is None:
        ends.client.close()
    else:
        assert ends.client.closed() == code
    assert ends.server.receive(5.0) is None
    assert code is not None or ends.gone.wait(60)


def test_server_closes_with_a_code(ends: Ends) -> None:
    ends.server.close(1001)
    assert ends.client.closed() == 1001
    assert ends.server.closed


def test_client_that_still_sends_when_the_server_closes_is_not_reset(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "CLOSING", 60.0)  # a client that takes longer is reset
    closing = threading.Thread(target=ends.server.close, args=(1001,))
    closing.start()
    assert ends.client.closed() == 1001
    for _ in range(3):  # a reset fails the second
        ends.client.sock.sendall(b"\x81\x81\0\0\0\0a")
        time.sleep(0.01)
    ends.client.send(CloseConnection(code=1001))
    closing.join(60)
    assert ends.client.sock.recv(1) == b""
