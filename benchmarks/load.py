"""The load generator, a separate process: reads a plan as a line of JSON, prints the outcome as
one.

    echo '{"url": "http://127.0.0.1:8081/v1/chat/completions", …}' | python -m benchmarks.load

See `Plan` for the input. Connections are kept alive: `at_once` connections send their next request
as soon as they have an answer, until `requests` were sent or `seconds` have passed. The stub's
tokens contain the time they were sent, so the delay through the gateway is known for each.

It uses one thread, epoll and the parser of node.js, so that it is not the bottleneck.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import select
import socket
import sys
import time
from array import array
from dataclasses import dataclass
from urllib.parse import urlsplit

import httptools

STAMP = re.compile(rb"t(\d{15}) ")
STAMP_LIKE = b"t000000000000000 "
PAST = 1980  # characters of a message of a history
PAST_TEXT = ("The quick brown fox jumps over the lazy dog and runs away from it. " * 30)[:PAST]
SILENCE = 20.0  # seconds without any byte after which open requests count as lost


@dataclass
class Plan:
    """`ramp` is the number of requests started per second, each on its own connection; 0: `at_once`
    connections repeat their requests. `history` messages of `PAST` characters come before the
    question; with `grows`, each variant is the next turn of the same conversation: it begins with
    the last one, and adds an answer and a question.
    With `sip`, the client is slow: it reads so many bytes every tenth of a second. With `keep`, the
    connections stay open for the next plan, so that opening them is not part of what it costs."""

    url: str
    tokens: int
    stream: bool
    at_once: int = 1
    requests: int = 1 << 30
    seconds: float = 1e9
    ramp: float = 0.0
    system: str = "You are a helpful assistant."
    content: str = "How long is the way from here to there, and who has walked it before me?"
    variants: int = 1
    model: str = "stub"
    key: str = ""
    history: int = 0
    grows: bool = False
    sip: int = 0
    keep: bool = False

    def message(self, number: int = 0) -> bytes:
        """A request; `#` in its texts stands for the number of its variant."""
        body = json.dumps(
            {
                "model": self.model,
                "messages": [
                    {"role": "system", "content": self.system.replace("#", str(number))},
                    *self._past(number),
                    self._question(number),
                ],
                "max_tokens": self.tokens,
                "temperature": 0.7,
                "stream": self.stream,
            }
        ).encode()
        parts = urlsplit(self.url)
        head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        head += "User-Agent: benchmark\r\nAccept: */*\r\nContent-Type: application/json\r\n"
        head += f"Authorization: Bearer {self.key}\r\n" if self.key else ""
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def _question(self, number: int) -> dict[str, str]:
        return {"role": "user", "content": self.content.replace("#", str(number))}

    def _past(self, number: int) -> list[dict[str, str]]:
        talk, turns = (0, number) if self.grows else (number, 0)
        past = [
            {"role": ("user", "assistant")[at % 2], "content": f"{talk} {at} {PAST_TEXT}"}
            for at in range(self.history)
        ]
        for turn in range(turns):
            past += [
                self._question(turn),
                {"role": "assistant", "content": f"answer {turn} {PAST_TEXT}"},
            ]
        return past


@dataclass
class Outcome:
    """Times are in microseconds. `relay` has percentiles (50, 90, 99, 100) of token delays,
    `latency` and `first` those of complete answers and of the time to a stream's first token."""

    complete: int
    failed: int
    tokens: int
    seconds: float
    relay: list[float]
    latency: list[float]
    first: list[float]


class Client:
    """A connection and the answer being read; `keeps`: it can be reused."""

    __slots__ = ("_body", "_over", "_parser", "_rest", "began", "first", "keeps", "sock", "tokens")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.begin()

    def begin(self) -> None:
        self.began = time.monotonic()
        self.first = 0.0
        self.tokens = 0
        self._rest = b""
        self._body: list[bytes] = []
        self._over = self.keeps = False
        self._parser = httptools.HttpResponseParser(self)

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        self._over = True
        # Read it here: later, the parser has forgotten the length and says no.
        self.keeps = bool(self._parser.should_keep_alive())

    def take(self, data: bytes, ways: array[int]) -> bool:
        """Parse received data; return whether the answer is complete. Raises ValueError unless it
        succeeded."""
        moment = time.monotonic_ns() // 1000
        self._parser.feed_data(data)
        if self._parser.get_status_code() != 200:
            raise ValueError(data[:300])
        text = self._rest + b"".join(self._body)
        self._body.clear()
        times = STAMP.findall(text)
        if times:
            if not self.tokens:
                self.first = time.monotonic()
            self.tokens += len(times)
            ways.extend([moment - int(sent) for sent in times])
            text = text[text.rindex(times[-1]) + len(times[-1]) :]
        self._rest = text[-len(STAMP_LIKE) :]
        return self._over


def run(plan: Plan, idle: list[socket.socket]) -> Outcome:
    """Run a plan. `idle` are the open connections of earlier plans."""
    parts = urlsplit(plan.url)
    address = (parts.hostname or "", parts.port or 80)
    messages = itertools.cycle([plan.message(number) for number in range(plan.variants)])
    epoll = select.epoll()
    clients: dict[int, Client] = {}
    ways: array[int] = array("q")
    latency: list[float] = []
    first: list[float] = []
    begun = complete = failed = tokens = 0
    wanted = plan.requests
    start = time.monotonic()

    for sock in [connection for connection in idle if connection.getpeername() != address]:
        idle.remove(sock)
        sock.close()

    def connected() -> socket.socket:
        sock = socket.socket(socket.AF_INET)
        sock.settimeout(30)
        if plan.sip:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, plan.sip)
        sock.connect(address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def begin() -> None:
        nonlocal begun
        begun += 1
        sock = idle.pop() if idle else connected()
        client = clients[sock.fileno()] = Client(sock)
        epoll.register(sock, select.EPOLLIN)
        client.begin()
        sock.sendall(next(messages))

    def drop(number: int, keep: bool = False) -> None:
        client = clients.pop(number)
        epoll.unregister(client.sock)
        if keep:
            idle.append(client.sock)
        else:
            client.sock.close()

    while complete + failed < wanted:
        if begun < wanted and time.monotonic() - start > plan.seconds:
            wanted = begun
        while len(clients) < plan.at_once and begun < wanted:
            if plan.ramp and begun >= (time.monotonic() - start) * plan.ramp:
                break
            begin()
        waiting_to_begin = plan.ramp and begun < wanted and len(clients) < plan.at_once
        events = epoll.poll(1 / plan.ramp if waiting_to_begin else SILENCE)
        if not events and not waiting_to_begin:
            print(f"{len(clients)} answers failed: {SILENCE:g} s of silence", file=sys.stderr)
            failed += len(clients)
            break
        if plan.sip:
            time.sleep(0.1)  # these clients read slowly
        for number, _ in events:
            client = clients[number]
            try:
                data = client.sock.recv(plan.sip or 1 << 18)
                # An answer without a length ends with its connection.
                over = client.take(data, ways) if data else client.tokens == plan.tokens
            except (OSError, ValueError, httptools.HttpParserError) as error:
                if not failed:
                    print(f"an answer failed: {error}", file=sys.stderr)
                over, data = False, b""
            if over:
                moment = time.monotonic()
                latency.append(moment - client.began)
                first.append(client.first - client.began)
                tokens += client.tokens
                # A stream counts if all its tokens arrived.
                complete += client.tokens == plan.tokens
                failed += client.tokens != plan.tokens
                if begun < wanted and not plan.ramp and client.keeps:
                    begun += 1
                    client.begin()
                    try:
                        client.sock.sendall(next(messages))
                    except OSError:
                        begun -= 1
                        drop(number)
                else:
                    drop(number, keep=plan.keep and client.keeps)
            elif not data:
                # The server closed an idle connection, and the request sent on it is lost.
                print("an answer failed: the connection was closed", file=sys.stderr)
                tokens += client.tokens
                failed += 1
                drop(number)
    return Outcome(
        complete,
        failed,
        tokens,
        time.monotonic() - start,
        percentiles(ways),
        percentiles([1e6 * value for value in latency]),
        percentiles([1e6 * value for value in first]),
    )


def percentiles(values: list[float] | array[int]) -> list[float]:
    ordered = sorted(values)
    if not ordered:
        return []
    top = len(ordered) - 1
    return [round(ordered[round(share * top)], 1) for share in (0.5, 0.9, 0.99, 1.0)]


if __name__ == "__main__":
    idle: list[socket.socket] = []
    for line in sys.stdin:
        print(json.dumps(dataclasses.asdict(run(Plan(**json.loads(line)), idle))), flush=True)
