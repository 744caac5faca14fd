"""Fuzzes every WebSocket route of a running gateway with frames.

    python -m tests.fuzz.sockets --seconds 600 [--seed 1] [--server llama-2026] [--no-keys]

A case is a handshake, sometimes a broken one, and frames: sound messages, whole or in fragments
with pings between them, messages with broken bodies, and what no client may send. Besides what
`tests.fuzz.bodies` holds of each answer: the gateway sends valid frames with JSON events, none of
which tells of a fault of ours; sound messages are answered to their ends; who breaks the protocol
is disconnected; a close frame is answered with one.

The body of a finding is what the client sends behind its handshake.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import random
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, TextMessage
from wsproto.utilities import RemoteProtocolError

from tests.fuzz import seeds
from tests.fuzz.http1 import cut
from tests.fuzz.mutations import Mutator, broken, encoded
from tests.fuzz.routes import listed
from tests.fuzz.subject import FIRST, Answer, Case, Report, Silence, Subject, command, drive, flags
from tests.ws import ACCEPT, UPGRADE

ENDS = 10.0  # seconds until a client that breaks the protocol is disconnected
QUIET = 0.3  # seconds of silence after frames that may have no answer
MORE, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
OVER = ("error", "response.completed", "response.incomplete", "response.failed")
SOUND: list[dict[str, Any]] = [
    {"input": "Hi", "max_output_tokens": 2},
    {"input": "你好 \U0001f600", "max_output_tokens": 2, "generate": False},
    {"input": "Hi", "max_output_tokens": 2, "store": False, "instructions": "é" * 400},
    {"input": "Hi", "previous_response_id": "resp_none"},
]
HANDSHAKES: list[dict[str, str]] = [
    {"Sec-WebSocket-Version": "8"},
    {"Sec-WebSocket-Version": "13, 8"},
    {"Sec-WebSocket-Key": ""},
    {"Sec-WebSocket-Key": "a" * 5000},
    {"Sec-WebSocket-Key": "\xff"},
    {"Upgrade": "h2c, websocket"},
    {"Upgrade": "WebSocket"},
    {"Connection": "keep-alive"},
    {"Connection": "close, upgrade"},
    {"Origin": "http://evil.example"},
    {"Content-Length": "5"},
    {"Transfer-Encoding": "chunked"},
    {"Sec-WebSocket-Extensions": "permessage-deflate; x=" + "y" * 3000},
    {"Sec-WebSocket-Protocol": "a, b"},
    {"Authorization": "Bearer x"},
]


def frame(
    rng: random.Random, kind: int, data: bytes = b"", *, first: int = 0x80, size: int = -1
) -> bytes:
    """A masked frame; `first` are the bits before its opcode, `size` is what it says of its
    length."""
    size = len(data) if size < 0 else size
    wide = size >= 1 << 16
    length = bytes([0x80 | (min(size, 126) + wide)])
    length += b"" if size < 126 else size.to_bytes(8 if wide else 2, "big")
    key = rng.randbytes(4)
    keys = int.from_bytes((key * (len(data) // 4 + 1))[: len(data)], "big")
    masked = (int.from_bytes(data, "big") ^ keys).to_bytes(len(data), "big")
    return bytes([first | kind]) + length + key + masked


def fragments(rng: random.Random, data: bytes) -> bytes:
    """A text message in fragments, even within a character, with control frames between them."""
    pieces = cut(data, rng) or [b""]
    found = b""
    for place, piece in enumerate(pieces):
        last = place == len(pieces) - 1
        found += frame(rng, MORE if place else TEXT, piece, first=0x80 * last)
        if not last and rng.random() < 0.5:
            found += frame(rng, rng.choice((PING, PONG)), rng.randbytes(rng.choice((0, 4, 125))))
    return found


# What ends the connection: the gateway has to close it.
FORBIDDEN: list[Callable[[random.Random], bytes]] = [
    lambda rng: bytes([0x81, 2]) + b"{}",  # not masked
    lambda rng: frame(rng, rng.choice((3, 4, 5, 6, 7, 11, 12, 13, 14, 15)), b"x"),
    lambda rng: frame(rng, TEXT, b"{}", first=0x80 | rng.choice((0x10, 0x20, 0x40, 0x70))),
    lambda rng: frame(rng, MORE, b"{}"),
    lambda rng: frame(rng, TEXT, b"{", first=0) + frame(rng, TEXT, b"}"),
    lambda rng: frame(rng, rng.choice((PING, PONG)), b"x", first=0),
    lambda rng: frame(rng, rng.choice((PING, CLOSE)), b"\x03\xe8" + b"x" * 124),
    lambda rng: frame(rng, TEXT, b'"' + rng.choice((b"\xff", b"\xed\xa0\x80", b"\xc0\xaf")) + b'"'),
    lambda rng: frame(rng, TEXT, b"\xe4\xbd", first=0) + frame(rng, MORE, b"a"),
    lambda rng: frame(rng, BINARY, b"{}"),
    lambda rng: frame(rng, CLOSE, b"\x03"),
    lambda rng: frame(rng, CLOSE, b"\x03\xe8\xff"),
    lambda rng: frame(
        rng,
        CLOSE,
        rng.choice((0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535)).to_bytes(2, "big"),
    ),
    lambda rng: frame(rng, rng.choice((PING, PONG, TEXT)), b"") * 3000,
    lambda rng: frame(rng, TEXT, b"[", first=0) + frame(rng, MORE, b" ", first=0) * 3000,
]
# What may be waited for, or be refused in any way.
ODD: list[Callable[[random.Random], bytes]] = [
    lambda rng: frame(rng, TEXT, b"{}", size=rng.choice((126, 65536, 1 << 40, (1 << 63) - 1))),
    lambda rng: frame(rng, TEXT, b"{}", size=rng.choice((1 << 63, (1 << 64) - 1))),
    lambda rng: bytes([0x81, 0xFE, 0, 2]) + rng.randbytes(6),  # a length in too many bytes
    lambda rng: rng.randbytes(rng.choice((1, 7, 300))),
    lambda rng: b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n" * 3,
    lambda rng: frame(rng, TEXT, b" " * (1 << 20), first=0) * rng.choice((1, 4, 40)),
    lambda rng: frame(rng, PING, b"x") * 90,
    lambda rng: frame(rng, TEXT, b"x") * rng.choice((2, 8, 200)),
    lambda rng: frame(rng, TEXT, b'{"type":"response.processed"}') * 20,
]


class Plan(NamedTuple):
    """What a client sends, and what it expects. `asks`: the answers to sound messages, None if they
    cannot be told. `ends`: the gateway closes. `early`: frames are sent behind the handshake
    without waiting. `leaves`: the client disconnects without a close frame."""

    case: Case
    is_handshake: bool
    asks: int | None
    ends: bool
    early: bool
    leaves: bool


class Fuzzer:
    def __init__(self, subject: Subject, seed: int) -> None:
        folder = Path(tempfile.mkdtemp(prefix="routes-"))
        routes = listed(flags(subject.backend.url, folder, keys=False))
        self.routes = [route for route in routes if route.websocket]
        assert self.routes, "the gateway has no WebSocket route"
        self.subject = subject
        self.seed = seed
        self.answers = 0  # to sound messages
        known = seeds.bodies("responses.create")
        self.known = [body for body in known if "$" not in json.dumps(body)]
        self.mutator = Mutator(seeds.words(), known)

    def plan(self, number: int) -> Plan:
        rng = random.Random(f"{self.seed}/{number}")
        route = self.routes[number % len(self.routes)]
        headers = {**UPGRADE, **self.subject.key_headers()}
        is_handshake = rng.random() < 0.9
        if not is_handshake:
            headers |= rng.choice(HANDSHAKES)
        asks: int | None = 0
        data = b""
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            if rng.random() < 0.5:
                body = {"type": "response.create", "model": "m", **rng.choice(SOUND)}
                text = json.dumps(body, ensure_ascii=rng.random() < 0.5).encode()
                asks = None if asks is None else asks + 1
            else:
                value = {"type": "response.create", **rng.choice(self.known)}
                value["max_output_tokens"] = 4
                text = encoded(self.mutator.mutated(rng, value)).encode("utf-8", "surrogatepass")
                text = broken(rng, text) if rng.random() < 0.1 else text
                asks = None
            data += fragments(rng, text) if rng.random() < 0.4 else frame(rng, TEXT, text)
        how = rng.random()
        ends = how < 0.4
        if ends:
            data += rng.choice(FORBIDDEN)(rng)
        elif how < 0.65:
            data, asks = data + rng.choice(ODD)(rng), None
        if rng.random() < 0.1 and data:
            at = rng.randrange(len(data))
            data = data[:at] + rng.randbytes(1) + data[at + 1 :]
            asks, ends = None, False
        early = rng.random() < 0.1  # no client may do that
        if early:
            asks, ends = None, False
        case = Case(number, route.endpoint, "GET", route.rule, headers, data)
        return Plan(case, is_handshake, asks, ends, early, rng.random() < 0.3)

    def attempt(self, number: int) -> None:
        plan = self.plan(number)
        answer = self.subject.attempt(plan.case, lambda case: self._talk(plan))
        if answer and plan.is_handshake and answer.status not in (101, 0):
            self.subject.find(
                f"a sound handshake gets {answer.status}", plan.case, str(answer.body)
            )

    def _talk(self, plan: Plan) -> Answer:
        """Raises Silence."""
        case = plan.case
        lines = [f"GET {case.path} HTTP/1.1", f"Host: {self.subject.at}"]
        lines += [f"{name}: {value}" for name, value in case.headers.items()]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        address = self.subject.at.split(":")
        with socket.create_connection((address[0], int(address[1])), FIRST) as sock:
            try:
                sock.sendall(head + (case.body if plan.early else b""))
                seen = b""
                while b"\r\n\r\n" not in seen:
                    if not (piece := sock.recv(1 << 16)):
                        raise Silence(f"no answer to the handshake: {seen!r}")
                    seen += piece
                told, _, rest = seen.partition(b"\r\n\r\n")
                status = int(told[9:12])
                fields = http.client.parse_headers(io.BytesIO(told.partition(b"\r\n")[2] + b"\r\n"))
                if status != 101:
                    size = int(fields.get("Content-Length") or 0)
                    while len(rest) < size and (piece := sock.recv(1 << 16)):
                        rest += piece
                    whole = len(rest) >= size
                    return Answer(status, fields.get_content_type(), rest[:size], whole)
            except (ConnectionError, TimeoutError) as error:
                if plan.early and isinstance(error, ConnectionError):
                    return Answer(0, "", b"", whole=False)  # what it sent too early cost it this
                raise Silence(f"{type(error).__name__}: {error}") from None
            if fields["Sec-WebSocket-Accept"] != ACCEPT:
                self.subject.find("a wrong Sec-WebSocket-Accept", case)
            self._frames(plan, sock, rest)
        return Answer(status, "", b"", whole=True)

    def _frames(self, plan: Plan, sock: socket.socket, rest: bytes) -> None:
        ears = Ears(self.subject, plan.case)
        with contextlib.suppress(ConnectionError):
            if not plan.early:
                for piece in cut(plan.case.body, random.Random(plan.case.number)):
                    sock.sendall(piece)
        asks = plan.asks
        if plan.ends:
            if not ears.hear(sock, rest, ENDS + (FIRST if asks else 0), lambda: False):
                self.subject.find("who breaks the protocol is not disconnected", plan.case)
            return
        if asks is None:
            ears.hear(sock, rest, QUIET, lambda: False)
        else:
            gone = ears.hear(sock, rest, FIRST, lambda: ears.over >= asks)
            if gone or ears.over < asks:
                more = f"{ears.over} of {asks} answers; disconnected: {gone}"
                self.subject.find("a sound message is not answered to its end", plan.case, more)
                return
            self.answers += asks
        if plan.leaves or asks is None:
            return
        with contextlib.suppress(ConnectionError):
            sock.sendall(frame(random.Random(1), CLOSE, b"\x03\xe8"))
        if not ears.hear(sock, b"", ENDS, lambda: False) or not ears.closed:
            self.subject.find("a close frame is not answered", plan.case)


class Ears:
    """What a client hears. `over`: answers that ended; `closed`: a close frame came."""

    def __init__(self, subject: Subject, case: Case) -> None:
        self._subject = subject
        self._case = case
        self._protocol = Connection(ConnectionType.CLIENT)
        self._text = ""
        self.over = 0
        self.closed = False

    def hear(
        self, sock: socket.socket, data: bytes, seconds: float, enough: Callable[[], bool]
    ) -> bool:
        """Reads for so long, or until it is enough. Returns whether the gateway disconnected."""
        end = time.monotonic() + seconds
        while True:
            if data and not self.closed:
                self._take(data)
            if enough():
                return False
            left = end - time.monotonic()
            if left <= 0:
                return False
            sock.settimeout(left)
            try:
                data = sock.recv(1 << 16)
            except TimeoutError:
                return False
            except ConnectionError:
                return True
            if not data:
                return True

    def _take(self, data: bytes) -> None:
        try:
            self._protocol.receive_data(data)
            for event in self._protocol.events():
                if isinstance(event, CloseConnection):
                    self.closed = True
                elif isinstance(event, TextMessage):
                    self._text += event.data
                    if event.message_finished:
                        text, self._text = self._text, ""
                        self._judge(json.loads(text))
        except (RemoteProtocolError, ValueError) as error:
            self._subject.find("the gateway sends a broken frame", self._case, f"{error} {data!r}")

    def _judge(self, event: Any) -> None:
        kind = event["type"]
        self.over += kind in OVER
        status = event.get("status", 0) if kind == "error" else 0
        if status >= 500 and status not in self._case.allowed:
            self._subject.find(f"an event with {status}", self._case, json.dumps(event))


def fuzz(
    subject: Subject, seed: int, *, seconds: float = 0.0, count: int = 0
) -> tuple[Report, Fuzzer]:
    """Tries cases for a time or up to a number."""
    fuzzer = Fuzzer(subject, seed)
    return drive(subject, fuzzer.attempt, seconds=seconds, count=count), fuzzer


def main(argv: list[str] | None = None) -> int:
    def work(subject: Subject, seed: int, seconds: float) -> tuple[Report, list[str]]:
        report, fuzzer = fuzz(subject, seed, seconds=seconds)
        return report, [f"sound messages answered: {fuzzer.answers}"]

    return command("tests.fuzz.sockets", __doc__, work, argv)


if __name__ == "__main__":
    sys.exit(main())
