"""Fuzzes the HTTP reader, with h11 as the oracle.

    python -m tests.fuzz.http1 --seconds 600 [--seed 1]
    python -m tests.fuzz.http1 --inputs 1000000

Each input is random, or a known smuggling attempt changed at random. It is given to our reader
whole, byte by byte and cut at random: what is seen must be the same. h11 reads it too: where both
take a message, method, target, headers, body and the place where the message ends must be the same.
A message that h11 refuses and we take must be of a kind that is known and judged here (`JUDGED`).
That we refuse what h11 takes is no finding: it is the stricter way.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import h11

from proxy.server.http1 import BodyError, ServerConnection, base_environ
from proxy.server.reader import MAX_INCOMPLETE, Request


class Message(NamedTuple):
    """A request as a reader sees it; headers by lower-case name, repeated ones joined."""

    method: str
    target: bytes
    version: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Seen(NamedTuple):
    """`end` is why no more messages came: "end" where the input ended, "closed" behind one that is
    the last, or what was refused."""

    messages: tuple[Message, ...]
    end: str
    rest: bytes = b""  # of the oracle: start of the input that it refused


class Finding(AssertionError):
    """A forbidden behaviour of the reader."""


# -- the readers -----------------------------------------------------------------------------------


class _Pieces:
    """A socket that gives an input in pieces."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self.status = ""

    def recv(self, size: int, /) -> bytes:
        return next(self._pieces, b"")

    def send(self, data: bytes, /) -> None:
        if data.startswith(b"HTTP/1.1 ") and b"\r\nConnection: close\r\nContent-Length" in data:
            self.status = data[9:12].decode()

    def flush(self) -> None:
        pass

    def finish(self) -> None:
        pass

    def give_way(self) -> None:
        pass


class _Watched(ServerConnection):
    """Records the requests of the application."""

    def _environ_of(self, request: Request) -> dict[str, Any]:
        environ = super()._environ_of(request)
        environ["raw"] = (request.method, request.url, request.version, request)
        return environ


def ours(pieces: Iterable[bytes]) -> Seen:
    """The messages that our reader sees."""
    messages: list[Message] = []
    reading = False
    last = False

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        nonlocal reading, last
        reading = True
        body = environ["wsgi.input"].read()
        reading = False
        method, url, version, request = environ["raw"]
        names = {name: value for name, value in environ.items() if name.isupper()}
        headers = {
            name.removeprefix("HTTP_").replace("_", "-").lower(): value
            for name, value in names.items()
            if name.startswith(("HTTP_", "CONTENT_"))
        }
        if b"://" in url.partition(b"?")[0]:
            headers["host"] = ""  # that of the target counts, see `_judge`
        messages.append(Message(method, url, version, _sorted(headers), body))
        last = not request.keep
        start("200 OK", [("Content-Length", "0")])
        return []

    wire = _Pieces(pieces)
    connection = _Watched(wire, app, base_environ(wire, ("h", 1), ("c", 2)))
    try:
        connection.serve(lambda: False)
    except BodyError as error:
        end = "end" if "hung up" in str(error) else "broken body"
    else:
        end = wire.status or ("closed" if last else "end")
    if reading and not end:
        raise Finding("an application waits for a body, and nothing is said")
    if connection._reader.held > MAX_INCOMPLETE:
        raise Finding(f"{connection._reader.held} bytes are held")
    return Seen(tuple(messages), end)


def judge(data: bytes) -> Seen:
    """What h11 sees. Each message has a connection of its own: h11 closes after HTTP/1.0."""
    messages: list[Message] = []
    while data:  # h11 reads empty input as the end of the connection
        reader = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_INCOMPLETE)
        reader.receive_data(data)
        head: h11.Request | None = None
        body = b""
        try:
            while not isinstance(event := reader.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return Seen(tuple(messages), "end")
                if isinstance(event, h11.Request):
                    head = event
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
        except h11.RemoteProtocolError as error:
            return Seen(tuple(messages), str(error), data)
        assert head is not None
        messages.append(_message(head, body))
        data, _ = reader.trailing_data
    return Seen(tuple(messages), "end")


def _message(head: h11.Request, body: bytes) -> Message:
    headers: dict[str, str] = {}
    for raw, value in head.headers:
        name = raw.decode("latin-1")
        if "_" in name:
            continue
        text = value.decode("latin-1")
        headers[name] = f"{headers[name]},{text}" if name in headers else text
    if b"://" in head.target.partition(b"?")[0]:
        headers["host"] = ""
    return Message(
        head.method.decode("latin-1"),
        bytes(head.target),
        head.http_version.decode(),
        _sorted(headers),
        body,
    )


def _sorted(headers: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """What is compared of headers: our reader takes out an offer of another protocol, h11 writes a
    coding in small letters."""
    if "transfer-encoding" in headers:
        headers["transfer-encoding"] = headers["transfer-encoding"].lower()
    return tuple(sorted(one for one in headers.items() if one[0] != "upgrade"))


# -- what is compared ------------------------------------------------------------------------------

# Kinds of messages that we take and h11 does not: how what is left of the input begins, and why
# that is no danger.
JUDGED: dict[str, tuple[re.Pattern[bytes], str]] = {
    "blank lines before it": (
        re.compile(rb"[\r\n]"),
        "RFC 9112, 2.2: a server should skip them; nothing else is skipped",
    ),
    "several spaces around the target": (
        re.compile(rb"[A-Z-]+ (  *\S+ +| *\S+  +)(HTTP|RTSP|ICE)/"),
        "RFC 9112, 3: whitespace may be taken leniently; the target is the same word",
    ),
    "another protocol's name": (
        re.compile(rb"[A-Z-]+ +\S+ (RTSP|ICE)/1\."),
        "methods of other protocols are no routes of ours; framed as HTTP of the same number",
    ),
}


def check(data: bytes, seed: int) -> Counter[str]:
    """Compares the readers on one input and counts what they saw. Raises Finding."""
    counted: Counter[str] = Counter()
    whole = ours([data])
    for name, pieces in (
        ("byte by byte", [data[at : at + 1] for at in range(len(data))]),
        ("cut at random", cut(data, random.Random(seed))),
    ):
        other = ours(pieces)
        if other != whole:
            raise Finding(f"whole {whole}\n{name} {other}")
    h11s = judge(data)
    for number, message in enumerate(whole.messages):
        if number >= len(h11s.messages):
            kind = _kind(h11s.rest)
            if not kind:
                raise Finding(f"only we take {message}\nh11: {h11s.end}\nof {h11s.rest!r}")
            counted[f"only we take: {kind}"] += 1
            break
        if message != h11s.messages[number]:
            raise Finding(f"ours {message}\nh11s {h11s.messages[number]}")
        counted["both take"] += 1
    counted[f"ends: {whole.end}"] += 1
    return counted


def _kind(rest: bytes) -> str:
    return next((name for name, (form, _) in JUDGED.items() if form.match(rest)), "")


# -- inputs ----------------------------------------------------------------------------------------

GET = b"GET /a?b=c HTTP/1.1\r\nHost: h\r\nAccept: */*\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n5;x=y\r\nhello\r\n0\r\nX-T: t\r\n\r\n"
)
UPGRADE = b"POST /u HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: h2c\r\n"
UPGRADE += b"Content-Length: 2\r\n\r\nab"
OLD = b"GET /o HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
ABSOLUTE = b"GET http://h/x HTTP/1.1\r\nHost: other\r\n\r\n"
EXPECT = b"POST /e HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\na"
EXPECT_CHUNKS = CHUNKED.replace(b"Host: h\r\n", b"Host: h\r\nExpect: 100-Continue\r\n")
VALID = [GET, POST, CHUNKED, UPGRADE, OLD, ABSOLUTE, EXPECT, EXPECT_CHUNKS]

_SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"


def _with(*lines: bytes, body: bytes = b"", first: bytes = b"POST / HTTP/1.1") -> bytes:
    return b"\r\n".join((first, b"Host: h", *lines, b"", b"")) + body


_CHUNKS = b"0\r\n\r\n"
_CODINGS = [
    b"Transfer-Encoding:" + value
    for value in (
        *(b" chunked", b" Chunked", b" chunked ", b"\tchunked", b"chunked", b" chunked, chunked"),
        *(b" gzip, chunked", b" chunked, gzip", b" identity", b" chunked;a=b", b" ,chunked"),
        *(b" xchunked", b" chunked\x00", b" \x0bchunked", b"\r\n chunked"),
    )
]
_CODINGS += [
    b"Transfer-Encoding : chunked",
    b" Transfer-Encoding: chunked",
    b"Transfer\x00-Encoding: chunked",
    b"Transfer_Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    b"X: y\rTransfer-Encoding: chunked",
    b"X: y\nTransfer-Encoding: chunked",
    b"TE: trailers\r\nTransfer-Encoding: chunked\r\nTrailer: X",
]
_LENGTHS = [
    b"Content-Length: " + value
    for value in (
        *(b"%d", b"+%d", b"-%d", b"0%d", b"0x%x", b"%d ", b"%d, %d", b"%d.0", b"1e%d"),
        *(b"18446744073709551616%d", b""),
        *(b"%d\r\nContent-Length: 0", b"%d\r\nContent-Length: %d"),
    )
]
_LENGTHS += [b"Content-Length : %d", b"Content_Length: %d", b"Content-Length:\r\n %d"]
_HOSTS = [b"Host: a", b"Host:", b"X: y", b"host: h", b"Host : h", b"Host: h\x00", b"Hos\xe9: x"]
_FOLDED = [b"X: a\r\n b", b"X: a\r\n\tb", b"X:\r\n b", b"Host: h\r\n x", b" X: a", b"\tX: a"]
_SIZES = [b"5", b"05", b"5 ", b" 5", b"0x5", b"+5", b"-5", b"5;a", b"5;a=b", b'5;a="b\r\n"', b"5\t"]
_SIZES += [b"5;\x00", b"5\x0b", b"FFFFFFFFFFFFFFFF5", b"5;a=b;c", b"5 ;a", b"", b"5\n", b"5;a\n"]
_LINES = [
    b"GET / HTTP/1.1", b"GET / HTTP/1.0", b"GET / HTTP/0.9", b"GET / HTTP/1.2", b"GET / HTTP/2.0",
    b"GET / HTTP/11.1", b"GET / HTTP/1.10", b"GET / http/1.1", b"GET /", b"GET  / HTTP/1.1",
    b"GET /  HTTP/1.1", b"GET\t/\tHTTP/1.1", b"get / HTTP/1.1", b"G\x00T / HTTP/1.1",
    b"GET /\x00 HTTP/1.1", b"GET /a b HTTP/1.1", b"GET /\xff HTTP/1.1", b"GET * HTTP/1.1",
    b"OPTIONS * HTTP/1.1", b"GET http://[ HTTP/1.1", b"GET http://h:99999/ HTTP/1.1",
    b"GET //h/x HTTP/1.1", b"CONNECT h:1 HTTP/1.1", b"CONNECT / HTTP/1.1", b"PRI * HTTP/2.0",
    b"GET / RTSP/1.0", b"SOURCE / ICE/1.0", b"DESCRIBE / RTSP/1.0", b"M-SEARCH * HTTP/1.1",
    b" GET / HTTP/1.1", b"\r\nGET / HTTP/1.1", b"\nGET / HTTP/1.1", b"\r\n\r\nGET / HTTP/1.1",
    b"\rGET / HTTP/1.1", b"GET / HTTP/1.1 ", b"GET / HTTP/1.1\r", b"GET /#f HTTP/1.1",
]  # fmt: skip


_TARGETS = [
    b"http://h/x", b"http://other/x", b"HTTP://h/x", b"https://h/x", b"http://h", b"http://h?a=b",
    b"http:///x", b"http://h:80/x", b"http://h:/x", b"http://u@h/x", b"http://u:p@h/x",
    b"http://h/http://other/x", b"http://h\\other/x", b"http://[::1]/x", b"http://[::1", b"ftp://h/x",
    b"//other/x", b"h/x", b"h:80", b"?a=b", b"*", b"/x#http://other/", b"/%2e%2e/x", b"/x?http://other/",
]  # fmt: skip


def corpus() -> Iterator[bytes]:
    """Valid requests, and known forms of request smuggling."""
    yield from VALID
    for first in _LINES:
        yield _with(first=first) + GET
        yield first + b"\n" + b"Host: h\n\n" + GET
    for coding in _CODINGS:
        yield _with(coding, body=_CHUNKS) + GET
        yield _with(coding, first=b"POST / HTTP/1.0", body=_CHUNKS) + GET
        for length in (b"0", b"%d" % len(_CHUNKS), b"%d" % len(_CHUNKS + _SMUGGLED)):
            yield _with(b"Content-Length: " + length, coding, body=_CHUNKS + _SMUGGLED)
            yield _with(coding, b"Content-Length: " + length, body=_CHUNKS + _SMUGGLED)
    for form in _LENGTHS:
        length = form % ((5,) * form.count(b"%"))
        yield _with(length, body=b"hello") + GET
        yield _with(length, first=b"GET / HTTP/1.1", body=b"hello") + GET
    for size in _SIZES:
        yield _with(_CODINGS[0], body=size + b"\r\nhello\r\n0\r\n\r\n") + GET
        yield _with(_CODINGS[0], body=b"5\r\nhello\r\n" + size + b"\r\nhello\r\n0\r\n\r\n") + GET
    for end in (b"\n", b"\r", b"", b"\r\nX", b"x\r\n", b"\r\n\r\n", b"\n\n", b"\r\r\n"):
        yield _with(_CODINGS[0], body=b"5\r\nhello" + end + b"0\r\n\r\n") + GET
        yield _with(_CODINGS[0], body=b"5\r\nhello\r\n0" + end) + GET
        yield _with(_CODINGS[0], body=b"5" + end + b"hello\r\n0\r\n\r\n") + GET
        yield _with(_CODINGS[0], body=b"0\r\nA: b" + end + b"\r\n") + GET
        yield _with(b"A: b" + end + b"C: d", body=b"") + GET
    for host in _HOSTS:
        yield _with(host) + GET
        yield b"GET / HTTP/1.1\r\n" + host + b"\r\n\r\n" + GET
    for folded in _FOLDED:
        yield _with(folded) + GET
        yield _with(folded, b"Content-Length: 5", body=b"hello") + GET
    for name in (b"X ", b"X\t", b"X\r", b"", b"X Y", b"X\x00", b"X,", b"(X)", b"X\xe9", b'"X"'):
        yield _with(name + b": a") + GET
    for target in _TARGETS:
        for host in (b"Host: h\r\n", b"Host: other\r\n", b"", b"Host: h\r\nHost: other\r\n"):
            yield b"GET " + target + b" HTTP/1.1\r\n" + host + b"\r\n" + GET
    for expected in (b"100-continue", b"100-CONTINUE", b"100-continue, x", b"200-ok", b"", b"100"):
        yield _with(b"Expect: " + expected, b"Content-Length: 5", body=b"hello") + GET
        yield _with(b"Expect: " + expected, _CODINGS[0], body=b"5\r\nhello\r\n" + _CHUNKS) + GET
    for answer in (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nHost: h\r\n\r\n"):
        yield answer + GET  # an answer is no request
        yield GET + answer + GET
        yield _with(b"Content-Length: 5", body=answer[:5]) + answer[5:] + GET


_TOKENS = [
    b"\r\n", b"\r", b"\n", b"\0", b" ", b"\t", b":", b",", b";", b"=", b"\x0b", b"\x7f", b"\x85",
    b"\xa0", b"\xff", b"0", b"00", b"5", b"a", b"/", b"%00", b"#", b"[", b"\r\n\r\n", b"\n\n",
    b"0\r\n\r\n", b"HTTP/1.1", b"HTTP/1.0", b"chunked", b"Host: h\r\n", b"Connection: close\r\n",
    b"Connection: keep-alive\r\n", b"Connection: upgrade\r\nUpgrade: x\r\n",
    b"Expect: 100-continue\r\n",
    b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: ", b"Content-Length: ", b"5\r\nhello\r\n", b"X: " + b"y" * 300 + b"\r\n",
    GET, POST, CHUNKED, UPGRADE, OLD,
]  # fmt: skip


def mutated(rng: random.Random, seeds: list[bytes]) -> bytes:
    """A few seeds in sequence, changed in a few places."""
    data = bytearray(b"".join(rng.choices(seeds, k=rng.choice((1, 1, 1, 2, 3)))))
    for _ in range(rng.choice((0, 1, 1, 2, 3, 6))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(7):
            case 0 if data:
                data[at % len(data)] = rng.randrange(256)
            case 1 | 2:
                data[at:at] = rng.choice(_TOKENS)
            case 3:
                del data[at : at + rng.choice((1, 1, 2, 5, 20))]
            case 4:
                data[at:at] = data[at : at + rng.choice((1, 5, 40))]
            case 5:
                data[at : at + 1] = rng.choice(_TOKENS)
            case 6:
                other = rng.choice(seeds)
                data[at:] = other[rng.randrange(len(other) + 1) :]
    return bytes(data)


def cut(data: bytes, rng: random.Random) -> list[bytes]:
    """The same bytes in pieces."""
    ends = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(6)))
    pieces = [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]
    return [piece for piece in pieces if piece]


def run(seed: int, going: Callable[[int], bool]) -> Counter[str]:
    """Try the corpus, then inputs without end while `going` with the number of those tried. Raises
    Finding, with the input."""
    rng = random.Random(seed)
    seeds = list(corpus())
    counted: Counter[str] = Counter()
    number = 0
    while going(number):
        data = seeds[number] if number < len(seeds) else mutated(rng, seeds)
        try:
            counted += check(data, number)
        except Exception as error:
            raise Finding(f"{type(error).__name__}: {error}\ninput {data!r}") from error
        number += 1
    counted["inputs"] = number
    return counted


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.http1", description=__doc__)
    much = parser.add_mutually_exclusive_group()
    much.add_argument("--seconds", type=float, default=60.0)
    much.add_argument("--inputs", type=int, help="that many inputs, however long it takes")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    end = time.monotonic() + args.seconds
    try:
        counted = run(
            args.seed,
            lambda number: number < args.inputs if args.inputs else time.monotonic() < end,
        )
    except Finding as finding:
        print(finding, file=sys.stderr)
        return 1
    for name, times in counted.most_common():
        print(f"{times:9} {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
