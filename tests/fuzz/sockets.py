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

import json
import random
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from wsproto.events import CloseConnection, Pong, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from tests.fuzz import seeds
from tests.fuzz.http1 import cut
from tests.fuzz.mutations import Mutator, broken, encoded
from tests.fuzz.routes import listed
from tests.fuzz.subject import FIRST, Answer, Case, Report, Silence, Subject, command, drive, flags
from tests.ws import ACCEPT, UPGRADE, Client

ENDS = 10.0  # seconds until a client that breaks the protocol is disconnected
QUIET = 0.3  # seconds of silence after frames that may have no answer
CLOSED, GONE, LOST = -2, -3, 1006  # how a connection ended; wsproto's code of one without a frame
MORE, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
OVER = ("error", "response.completed", "response.incomplete", "response.failed")
CODES = (0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535)  # that no close frame may have
SOUND: list[dict[str, Any]] = [
    {"input": "Hi", "max_output_tokens": 2},
    {"input": "你好 \U0001f600", "max_output_tokens": 2, "generate": False},
    {"input": "Hi", "max_output_tokens": 2, "store": False, "instructions": "é" * 400},
    {"input": "Hi", "previous_response_id": "resp_none"},
]
HANDSHAKES = [
    ("Sec-WebSocket-Version", ["8", "13, 8"]),
    ("Sec-WebSocket-Key", ["", "a" * 5000, "\xff"]),
    ("Upgrade", ["h2c, websocket", "WebSocket"]),
    ("Connection", ["keep-alive", "close, upgrade"]),
    ("Origin", ["http://evil.example"]),
    ("Content-Length", ["5"]),
    ("Transfer-Encoding", ["chunked"]),
    ("Sec-WebSocket-Extensions", ["permessage-deflate; x=" + "y" * 3000]),
    ("Authorization", ["Bearer x"]),
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
    lambda rng: frame(rng, CLOSE, rng.choice(CODES).to_bytes(2, "big")),
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
    cannot be told. `ends`: the gateway closes. `early`: frames come with the handshake. `leaves`:
    the client disconnects without a close frame."""

    case: Case
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
        asks: int | None = 0
        data = b""
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            if rng.random() < 0.7:
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
        ends = how < 0.3
        if ends:
            data += rng.choice(FORBIDDEN)(rng)
        elif how < 0.5:
            data, asks = data + rng.choice(ODD)(rng), None
        if rng.random() < 0.1 and data:
            at = rng.randrange(len(data))
            data = data[:at] + rng.randbytes(1) + data[at + 1 :]
            asks, ends = None, False
        early = rng.random() < 0.1  # no client may do that
        if early:
            asks, ends = None, False
        case = Case(number, route.endpoint, "GET", route.rule, headers, data)
        return Plan(case, asks, ends, early, rng.random() < 0.3)

    def attempt(self, number: int) -> None:
        plan = self.plan(number)
        if number % 10:
            self.subject.attempt(plan.case, lambda case: self._talk(plan))
            return
        name, values = HANDSHAKES[number // 10 % len(HANDSHAKES)]
        headers = {**plan.case.headers, name: random.Random(number).choice(values)}
        self.subject.attempt(plan.case._replace(headers=headers, body=b""))

    def _talk(self, plan: Plan) -> Answer:
        """Raises Silence."""
        case = plan.case
        lines = [f"GET {case.path} HTTP/1.1", f"Host: {self.subject.at}"]
        lines += [f"{name}: {value}" for name, value in case.headers.items()]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        name, _, port = self.subject.at.partition(":")
        with socket.create_connection((name, int(port)), FIRST) as sock:
            try:
                sock.sendall(head + (case.body if plan.early else b""))
                client = Client(sock)
                if f"Sec-WebSocket-Accept: {ACCEPT}".encode() not in client.head:
                    raise Silence(f"the handshake is refused: {client.head!r}")
                self._frames(plan, client)
            except (ConnectionError, TimeoutError) as error:
                if not plan.early:
                    raise Silence(f"{type(error).__name__}: {error}") from None
        return Answer(101, "", b"", whole=True)

    def _frames(self, plan: Plan, client: Client) -> None:
        case, asks, find = plan.case, plan.asks, self.subject.find
        if not plan.early:
            with suppress(ConnectionError):
                for piece in cut(case.body, random.Random(case.number)):
                    client.sock.sendall(piece)
        if plan.ends:
            if self._hear(case, client, ENDS + (FIRST if asks else 0)) is None:
                find("who breaks the protocol is not disconnected", case)
        elif asks is None:
            self._hear(case, client, QUIET)
        elif (heard := self._hear(case, client, FIRST, asks)) != asks:
            find("a sound message is not answered to its end", case, f"{heard} of {asks}")
        else:
            self.answers += asks
            if plan.leaves:
                return
            client.send(CloseConnection(code=1000))
            if self._hear(case, client, ENDS) != CLOSED:
                find("a close frame is not answered", case)

    def _hear(self, case: Case, client: Client, seconds: float, most: int = -1) -> int | None:
        """Reads and judges events for so long, or up to the ends of so many answers. Returns
        `most`, or CLOSED or GONE if the gateway closed or disconnected, None if the time is
        over."""
        end, over, text = time.monotonic() + seconds, 0, ""
        try:
            while over != most:
                client.sock.settimeout(max(0.001, end - time.monotonic()))
                event = client.next()
                if isinstance(event, CloseConnection):
                    return GONE if event.code == LOST else CLOSED
                if isinstance(event, Pong):
                    continue
                assert isinstance(event, TextMessage), event
                text += event.data
                if event.message_finished:
                    over += self._judge(case, json.loads(text))
                    text = ""
        except TimeoutError:
            return None
        except (ConnectionError, LocalProtocolError):
            return GONE
        except (RemoteProtocolError, ValueError, AssertionError) as error:
            self.subject.find("the gateway sends a broken frame", case, str(error))
            return None
        return most

    def _judge(self, case: Case, event: Any) -> bool:
        """Whether an event is the end of an answer."""
        status = event.get("status", 0) if event["type"] == "error" else 0
        if status >= 500 and status not in case.allowed:
            self.subject.find(f"an event with {status}", case, json.dumps(event))
        return event["type"] in OVER


def fuzz(
    subject: Subject, seed: int, *, seconds: float = 0.0, count: int = 0
) -> tuple[Report, Fuzzer]:
    """Tries cases for a time or up to a number."""
    fuzzer = Fuzzer(subject, seed)
    return drive(subject, fuzzer.attempt, seconds=seconds, count=count), fuzzer


if __name__ == "__main__":
    shown = "sound messages answered: {0.answers}"
    sys.exit(command("tests.fuzz.sockets", __doc__, fuzz, shown))
