"""A real gateway that is fuzzed: started, asked, watched and judged.

The gateway is `python -m proxy` with gunicorn's gevent worker, before a real model server with the
model of made-up weights. Everything it can serve without the internet is on.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import shlex
import tempfile
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.integration.child_processes import children, descendants
from tests.integration.child_processes import command as process_command
from tests.integration.searxng import SearXNG
from tools import made_up_model, servers
from tools.processes import Gateway, ModelServer

FIRST = 30.0  # seconds until the first byte of an answer; more is a finding
READ = 150.0  # the same for Chatchat, which waits until uploads are read, and for what may be a 504
LONGEST = 2.0  # seconds of reading an answer; then the client disconnects
KEY = "fuzz-key-0123456789"
OTHER = "fuzz-key-9876543210"
BAD = re.compile(
    r"Traceback \(most recent|unhandled exception"
    r"|more than its cache group has sent"
)
# Refusals before a route is found have the form of the path's API, or the general one.
NO_ROUTE = re.compile(rb"no such route|is not allowed for this route|unknown_origin|unknown_host")
NO_HTTP = b"400 Bad Request: "  # the reader's own answer to invalid HTTP
SHOWN = 3000  # characters of a log
GROWTH = 64 << 20  # allowed growth of the warm worker in bytes
OPENED = 40  # files and sockets that the warm worker may open and keep
CLIENTS = 4  # requests at once
WARM = 0.3  # share of the work before the first measurement of memory
LOOK = 50  # cases between two reads of the log
IDLE = 20.0  # seconds until everything is idle again

TOOLS = "calculator,time,knowledge_search"
# 5xx that are no fault: the model server lacks the feature (501).
ALLOWED = frozenset({501})


class Case(NamedTuple):
    """A request. The client disconnects after `hang_up` seconds, unless None. `allowed` are the 5xx
    that are no fault."""

    number: int
    endpoint: str
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    hang_up: float | None = None
    allowed: frozenset[int] = ALLOWED


class Answer(NamedTuple):
    """`whole` is False if the client disconnected before the end."""

    status: int
    kind: str
    body: bytes
    whole: bool


class Silence(Exception):
    """No answer at all."""


class Finding(NamedTuple):
    what: str
    case: Case | None
    more: str = ""


def server(name: str, folder: Path) -> ModelServer:
    """A running model server. Raises RuntimeError if it is not built."""
    binary = servers.find(name)
    if binary is None:
        raise RuntimeError(f"{name} is not built: python -m tools.servers build {name}")
    more = ["--slot-save-path", str(folder)] if name == "llama-2026" else ["--embedding"]
    one = ModelServer(name, binary, made_up_model.cached(), folder / f"{name}.log", extra=more)
    one.start()
    return one


def flags(url: str, folder: Path, *, keys: bool) -> list[str]:
    """Flags of a gateway for the model server at `url`, with all data below `folder`."""
    found = ["--llama-api", url, "--data", str(folder / "data"), "--chatchat", "--metrics"]
    found += ["--tools", TOOLS]
    if keys:
        file = folder / "keys.txt"
        file.write_text(f"ann {KEY}\nbob {OTHER}\n")
        file.chmod(0o600)
        found += ["--api-key-file", str(file), "--admins", "ann", "--wrong-keys", "0"]
    return found


class Subject:
    """The gateway under test. `findings` are its faults."""

    def __init__(self, gateway: Gateway, backend: ModelServer, *, keys: bool) -> None:
        self.gateway = gateway
        self.backend = backend
        self.keys = keys
        self.at = urlsplit(gateway.url).netloc
        self.worker = _worker(gateway.pid)
        self.findings: list[Finding] = []
        self.counts: Counter[str] = Counter()
        self.warm = 0
        self._seen: set[str] = set()
        self._log_at = 0
        self._last: deque[Case] = deque(maxlen=12)
        self._lock = threading.Lock()
        self._local = threading.local()
        self._connections: list[http.client.HTTPConnection] = []
        self._backend_pid = backend.pid
        self._tokens: dict[str, str] = {}

    # -- asking

    def page_headers(self) -> dict[str, str]:
        """The headers that the script of a page sends."""
        if not self._tokens:
            connection = http.client.HTTPConnection(self.at, timeout=FIRST)
            headers = {"Accept": "text/html", **self.key_headers()}
            connection.request("GET", "/knowledge", headers=headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            cookie = (answer.getheader("Set-Cookie") or "").partition(";")[0]
            connection.close()
            found = re.search(r'data-csrf="([0-9a-f]{64})"', text)
            assert found, f"no CSRF token in the page: {text[:2000]}"
            self._tokens = {"X-CSRF-Token": found[1], "Cookie": cookie}
        return self._tokens

    def key_headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {KEY}"} if self.keys else {}

    def send(self, case: Case) -> Answer:
        """Raises Silence."""
        for attempt in (1, 2):
            connection = self._connection()
            fresh = connection.sock is None
            try:
                return self._exchange(connection, case)
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                if fresh or attempt == 2 or isinstance(error, TimeoutError):
                    raise Silence(f"{type(error).__name__}: {error}") from None
        raise AssertionError

    def _exchange(self, connection: http.client.HTTPConnection, case: Case) -> Answer:
        headers = {"Content-Length": str(len(case.body)), **case.headers}
        host = "Host" in headers
        connection.putrequest(case.method, case.path, skip_host=host, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value.encode("latin-1", "replace"))
        # A request refused before it was sent whole still has an answer.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.endheaders(case.body or None)
        if case.hang_up is not None:
            connection.sock.settimeout(max(case.hang_up, 0.001))
        elif case.endpoint.startswith("chatchat.") or 504 in case.allowed:
            connection.sock.settimeout(READ)
        try:
            answer = connection.getresponse()
        except TimeoutError:
            if case.hang_up is None:
                raise
            self._drop()
            return Answer(0, "", b"", whole=False)
        until = time.monotonic() + (LONGEST if case.hang_up is None else case.hang_up)
        data = bytearray()
        whole = True
        while True:
            left = until - time.monotonic()
            if left <= 0:
                whole = False
                break
            if connection.sock:
                connection.sock.settimeout(left)
            try:
                piece = answer.read1(1 << 16)
            except TimeoutError:
                whole = False
                break
            if not piece:
                break
            data += piece
        answer.close()  # the connection does not notice its end by itself
        if not whole or answer.will_close or answer.status == 101:
            self._drop()
        elif connection.sock:
            connection.sock.settimeout(FIRST)
        return Answer(answer.status, answer.headers.get_content_type(), bytes(data), whole)

    def _connection(self) -> http.client.HTTPConnection:
        if getattr(self._local, "connection", None) is None:
            self._local.connection = http.client.HTTPConnection(self.at, timeout=FIRST)
            self._connections.append(self._local.connection)
        found: http.client.HTTPConnection = self._local.connection
        return found

    def close(self) -> None:
        """Close the connections of all threads."""
        for connection in self._connections:
            connection.close()

    def _drop(self) -> None:
        self._connection().close()
        self._connections.remove(self._connection())
        self._local.connection = None

    # -- judging

    def attempt(self, case: Case) -> Answer | None:
        """Sends a case and checks the result."""
        with self._lock:
            self._last.append(case)
        try:
            answer = self.send(case)
        except Silence as silence:
            self.find(f"{case.endpoint}: no answer", case, str(silence))
            return None
        with self._lock:
            self.counts[f"{answer.status // 100}xx" if answer.status else "left"] += 1
        if answer.status and (wrong := wrong_in(case, answer)):
            self.find(
                f"{case.endpoint}: {wrong}", case, answer.body[:SHOWN].decode("utf-8", "replace")
            )
        return answer

    def find(self, what: str, case: Case | None, more: str = "") -> None:
        with self._lock:
            if what not in self._seen:
                self._seen.add(what)
                self.findings.append(Finding(what, case, more))

    def look(self) -> None:
        """Checks the log, and that both servers are running."""
        with self._lock:
            log = self.gateway.log
            new, self._log_at = log[self._log_at :], len(log)
            last = list(self._last)
        about = "\n".join(f"{one.number} {one.method} {one.path[:200]}" for one in last)
        for found in BAD.finditer(new):
            line = new[new.rfind("\n", 0, found.start()) + 1 : found.end() + SHOWN]
            # The first words without times, so that one fault is reported once.
            end = line.strip().splitlines()
            told = next(
                (one for one in end[1:] if re.match(r"\w[\w.]*(Error|Exception)", one)), end[0]
            )
            self.find(f"log: {re.sub('[0-9]+', 'N', told)[:200]}", None, f"{line}\nbehind\n{about}")
        if not self.gateway.alive or _worker(self.gateway.pid) != self.worker:
            self.find("the gateway's worker died", last[-1] if last else None, about)
            self.worker = _worker(self.gateway.pid)
        if not self.backend.alive:
            self.find(f"{self.backend.name} died", last[-1] if last else None,
                      f"{self.backend.log[-SHOWN:]}\nbehind\n{about}")  # fmt: skip
            self.backend.start()

    def idle(self) -> None:
        """Checks that no request is left in flight or queued."""
        end = time.monotonic() + IDLE
        while (busy := self._busy()) and time.monotonic() < end:
            time.sleep(0.1)
        if busy:
            self.find("something is left over", None, busy)

    def _busy(self) -> str:
        """Requests in flight, queued requests and busy slots."""
        found = [one for one in self.get("/v1/backends")["data"] if one["in_flight"]]
        slots = self.get("/v1/slots")
        found += slots["queue"]
        found += [
            one
            for backend in slots["backends"]
            for one in backend["slots"]
            if one["state"] == "busy"
        ]
        return str(found) if found else ""

    def get(self, path: str) -> Any:
        headers = {"Accept": "application/json", **self.key_headers()}
        return json.loads(self.send(Case(0, "", "GET", path, headers, b"")).body)

    def rss(self) -> int:
        """Memory of the worker in bytes."""
        text = Path(f"/proc/{self.worker}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", text)
        assert found
        return int(found[1]) << 10

    def descriptors(self) -> int:
        """Open files and sockets of the worker."""
        return len(os.listdir(f"/proc/{self.worker}/fd"))

    def post(
        self, path: str, body: Any, kind: str = "application/json", method: str = "POST"
    ) -> Any:
        """The answer to a request that must succeed."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": kind, **self.key_headers(), **self.page_headers()}
        answer = self.send(Case(0, "", method, path, headers, data))
        assert answer.status < 300, f"{path}: {answer}"
        return json.loads(answer.body) if answer.body else None


def no_helpers(subject: Subject, word: str) -> None:
    """Checks that no process of the worker with this word in its command line stays."""
    end = time.monotonic() + 10
    while left := [pid for pid in descendants(subject.worker) if word in process_command(pid)]:
        if time.monotonic() > end:
            subject.find("helper processes are left", None, str(left))
            return
        time.sleep(0.2)


def _worker(pid: int) -> int:
    """The pid of gunicorn's only child; 0 if there is none."""
    try:
        return next(iter(children(pid)), 0)
    except OSError:
        return 0


@contextmanager
def running(
    folder: Path,
    name: str = "llama-2023",
    *,
    keys: bool,
    postgres: bool = False,
    more: tuple[str, ...] = (),
) -> Iterator[Subject]:
    """A gateway for the model server of this name, with its own PostgreSQL."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gateway.log").unlink(missing_ok=True)
    if postgres:
        from tests.postgres import empty, served

        with served(folder) as address:
            more = (*more, "--database", empty(address))
            with running(folder, name, keys=keys, more=more) as subject:
                yield subject
        return
    backend = server(name, folder)
    python = ("-W", "error")
    web = SearXNG({})
    searches = ("--search-engine", "searxng", "--searxng-url", web.url)
    given = [*flags(backend.url, folder, keys=keys), "--no-local-embeddings", *searches, *more]
    gateway = Gateway(given, folder / "gateway.log", python=python)
    try:
        gateway.start()
        with contextlib.closing(Subject(gateway, backend, keys=keys)) as subject:
            yield subject
    finally:
        gateway.stop()
        backend.kill()
        web.end()


# -- what an answer may be -------------------------------------------------------------------------


def wrong_in(case: Case, answer: Answer) -> str:
    """The fault of an answer, "" if there is none."""
    if answer.status >= 500 and answer.status not in case.allowed:
        return f"{answer.status} {_said(answer.body)}"
    if not answer.whole or case.method == "HEAD":
        return ""
    if answer.kind == "application/json":
        try:
            value = json.loads(answer.body, parse_constant=_no_constant)
        except ValueError as error:
            return f"no JSON ({error})"
        if answer.status >= 400:
            general = NO_ROUTE.search(answer.body) is not None and is_error("", value)
            known = general or is_error(case.endpoint, value)
            return "" if known else f"{answer.status} in a form of its own"
        return ""
    if answer.body.startswith(NO_HTTP):
        return ""
    if answer.status >= 400 and answer.kind != "text/html" and answer.body:
        return f"{answer.status} as {answer.kind}"
    if answer.kind == "text/event-stream":
        return _wrong_stream(answer.body)
    return ""


def _said(body: bytes) -> str:
    """The error's code or its first words, without parts that differ between cases."""
    try:
        error = json.loads(body)
    except ValueError:
        return body[:80].decode("utf-8", "replace")
    if isinstance(error, dict) and isinstance(inner := error.get("error"), dict):
        error = {"msg": f"{inner.get('code')} {inner.get('message')}"}
    text = str(
        error.get("msg") or error.get("detail") or error.get("error")
        if isinstance(error, dict)
        else error
    )
    return re.sub(r"\d+", "N", text)[:120]


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _wrong_stream(body: bytes) -> str:
    for frame in body.replace(b"\r\n", b"\n").split(b"\n\n"):
        data = b"\n".join(
            line[5:].strip() for line in frame.split(b"\n") if line.startswith(b"data:")
        )
        if data and data != b"[DONE]":
            try:
                json.loads(data, parse_constant=_no_constant)
            except ValueError:
                return f"a stream with {data[:80]!r}"
    return ""


def is_error(endpoint: str, value: Any) -> bool:
    """Whether this is an error object of the endpoint's dialect."""
    if not isinstance(value, dict):
        return False
    blueprint = endpoint.partition(".")[0]
    error = value.get("error")
    inner = error if isinstance(error, dict) else {}
    general = isinstance(inner.get("message"), str)
    if blueprint == "anthropic":
        return general and value.get("type") == "error" and isinstance(inner.get("type"), str)
    if blueprint == "ollama" or endpoint.startswith("embeddings.ollama"):
        return isinstance(error, str)
    if blueprint == "glm":
        return isinstance(value.get("detail"), str)
    if blueprint == "chatchat":
        return isinstance(value.get("msg"), str) and isinstance(value.get("code"), int)
    return general or endpoint.startswith("status.")


# -- driving and telling ---------------------------------------------------------------------------


class Report(NamedTuple):
    """`begun` and `ended` are bytes of the worker, once it is warm and at the end."""

    cases: int
    seconds: float
    begun: int
    ended: int


def drive(
    subject: Subject, attempt: Callable[[int], None], *, seconds: float = 0.0, count: int = 0
) -> Report:
    """Tries cases by number for a time or up to a number, then checks for leftovers."""
    lock = threading.Lock()
    number = begun = opened = 0
    begin = time.monotonic()

    def share() -> float:
        return number / count if count else (time.monotonic() - begin) / seconds

    def run() -> None:
        nonlocal number, begun, opened
        while True:
            with lock:
                mine = number
                if share() >= 1:
                    return
                number += 1
                if not begun and share() > WARM:
                    begun, opened = subject.rss(), subject.descriptors()
            if mine % LOOK == LOOK - 1:
                subject.look()
            try:
                attempt(mine)
            except Exception:
                subject.find("the fuzzer broke", None, traceback.format_exc()[-SHOWN:])

    clients = [threading.Thread(target=run, name=f"client-{n}") for n in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    took = time.monotonic() - begin
    subject.idle()
    subject.look()
    ended = subject.rss()
    if ended - begun > GROWTH:
        subject.find("the worker grows", None, f"from {begun >> 20} to {ended >> 20} MiB")
    if (left := subject.descriptors()) - opened > OPENED:
        subject.find("files or sockets stay open", None, f"{opened} when warm, {left} at the end")
    return Report(number, took, begun, ended)


def told(report: Report, subject: Subject, folder: Path) -> str:
    """The report and the findings, each with a command that repeats it."""
    lines = [
        f"{report.cases} cases in {report.seconds:.0f} s; answers: {dict(subject.counts)}",
        f"worker: {report.begun >> 20} MiB when warm, {report.ended >> 20} MiB at the end",
        *(_told(one, subject, folder) for one in subject.findings),
        f"{len(subject.findings)} findings; logs and bodies are in {folder}",
    ]
    return "\n".join(lines)


def _told(finding: Finding, subject: Subject, folder: Path) -> str:
    lines = [f"FOUND {finding.what}"]
    case = finding.case
    if case is not None:
        lines.append(f"  case {case.number}: {case.method} {case.path[:300]}")
        words = ["curl", "-sS", "-X", case.method, f"{subject.gateway.url}{case.path}"]
        for name, value in case.headers.items():
            words += ["-H", f"{name}: {value}"]
        if case.body:
            file = folder / f"case-{case.number}.body"
            file.write_bytes(case.body)
            words += ["--data-binary", f"@{file}"]
            lines.append(f"  body {case.body[:300]!r}")
        lines.append(f"  {shlex.join(words)}")
    if finding.more:
        lines.append("  " + finding.more[:SHOWN].replace("\n", "\n  "))
    return "\n".join(lines)


def command(
    module: str,
    doc: str | None,
    fuzz: Callable[..., tuple[Report, Any]],
    shown: str,
    more: tuple[str, ...] = (),
) -> int:
    """The command line of a fuzzer: a gateway with these flags, on which `fuzz` tries cases with a
    seed for so many seconds; what else it
    returns is `shown` before the report."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=doc)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--server", default="llama-2023")
    parser.add_argument("--keys", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--postgres", action="store_true", help="instead of SQLite")
    parser.add_argument("--keep", type=Path, default=None)
    args = parser.parse_args()
    folder = args.keep or Path(tempfile.mkdtemp(prefix="fuzz-"))
    with running(folder, args.server, keys=args.keys, postgres=args.postgres, more=more) as subject:
        report, found = fuzz(subject, args.seed, seconds=args.seconds)
    print(f"on {args.server}, keys={args.keys}", shown.format(found), sep="\n")
    print(told(report, subject, folder))
    return bool(subject.findings)
