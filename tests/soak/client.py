"""Clients of a soak: send one request, read its answer as its question says."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import time
from collections.abc import Sequence
from typing import NamedTuple

from .questions import Question
from .scene import Member
from .verdict import Answer, Verdict, judged, returned

LIMIT = 180.0  # seconds from a request to the end of its answer, all waits of a busy machine in it
AT_ONCE = 1.0  # seconds in which a connection that was closed while idle says so
SLICE = 4096  # bytes that a slow client reads at once, at most
MOST = 16 << 20  # bytes of an answer
PATIENCE = 15.0  # seconds without a byte after which a client of several gateways takes another


class Left(Exception):
    """The client hung up, as its question says."""


class Begun(NamedTuple):
    """A valid request whose answer began, and so has a row of the ledger. `ended` by the system's
    monotonic clock."""

    id: str
    member: Member
    ended: float


class Client:
    """Speaks to one gateway, or to several in turn. Not for several threads at once. While a
    gateway is away, it asks again, or asks the next."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._member = members[0]
        self.begun: list[Begun] = []
        self._id = ""  # of the answer that is read
        self._connection: http.client.HTTPConnection | None = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def ask(self, question: Question) -> Verdict:
        """The verdict on its answer; "left" if the client hung up."""
        begun, self._id = time.monotonic(), ""
        try:
            answer = self._exchange(question)
        except Left:
            return Verdict("left")
        finally:
            if self._id:
                self.begun.append(Begun(self._id, self._member, time.monotonic()))
        if answer.status and answer.cut and any(at >= begun for at, _ in self._member.kills):
            return Verdict("killed")
        verdict = judged(question, answer)
        if question.kind.endswith("upload") and answer.status == 200:
            return self._file_verdict(question, answer)
        return verdict

    def _file_verdict(self, question: Question, answer: Answer) -> Verdict:
        """Whether an uploaded file comes back as it was sent, and can be deleted."""
        key = json.loads(answer.body)["id"]
        sent = question.body.partition(b'a.bin"\r\n\r\n')[2].removesuffix(b"\r\n--soak--\r\n")
        path = f"/v1/files/{key}"
        download = question._replace(method="GET", path=f"{path}/content", body=b"")
        reply = self._exchange(download)
        if question.kind == "upload":
            verdict = returned(download, sent, reply)
            if verdict.end != "whole":
                return verdict
        return judged(download, self._exchange(download._replace(method="DELETE", path=path)))

    def _exchange(self, question: Question) -> Answer:
        """Raises Left. Without a single byte of an answer, it is asked again, as official clients
        do: on a new connection if the gateway closed an idle one, and while it is away."""
        until = time.monotonic() + LIMIT
        turn = question.number
        while True:
            begun = time.monotonic()
            self._choose(turn)
            answer = self._answer(question, until)
            if answer.status or time.monotonic() > until or not self._member.was_away(begun):
                return answer
            while len(self._members) == 1 and self._member.away.is_set():
                time.sleep(0.1)
            turn += 1

    def _choose(self, turn: int) -> None:
        """Take the gateway of this turn, or the next of which it is not known that it is away."""
        count, recent = len(self._members), time.monotonic() - PATIENCE
        turns = [self._members[(turn + n) % count] for n in range(count)]
        well = [member for member in turns if not member.away.is_set() or member.gone > recent]
        chosen = (well or turns)[0]
        if chosen is not self._member:
            self.close()
            self._member = chosen

    def _answer(self, question: Question, until: float) -> Answer:
        if question.slow or question.hang_up is not None:
            self.close()
        reused, begun = self._connection is not None, time.monotonic()
        try:
            return self._tried(question, until)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            closed = isinstance(error, ConnectionError | http.client.RemoteDisconnected)
            if not (reused and closed and time.monotonic() < begun + AT_ONCE):
                return Answer(0, "", b"", f"no answer: {type(error).__name__}: {error}")
        try:
            return self._tried(question, until)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            return Answer(0, "", b"", f"no answer: {type(error).__name__}: {error}")

    def _opened(self, question: Question) -> http.client.HTTPConnection:
        if self._connection is None:
            at = self._member.at
            connection = http.client.HTTPConnection(at, timeout=LIMIT)
            if question.slow:
                host, _, port = at.partition(":")
                sock = socket.socket()
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.settimeout(LIMIT)
                sock.connect((host, int(port)))
                connection.sock = sock
            else:
                connection.connect()
            self._connection = connection
        return self._connection

    def _tried(self, question: Question, until: float) -> Answer:
        connection = self._opened(question)
        connection.sock.settimeout(LIMIT)
        connection.putrequest(question.method, question.path, skip_accept_encoding=True)
        for name, value in {"Content-Type": "application/json", **question.headers}.items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(question.body)))
        begun = time.monotonic()
        if question.cut >= 0:
            with contextlib.suppress(ConnectionError):
                connection.endheaders(question.body[: question.cut])
            self.close()
            raise Left
        # A request refused before it was sent whole still has an answer.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.endheaders(question.body or None)
        leaves = None if question.hang_up is None else begun + question.hang_up
        return self._heard(connection, question, min(until, leaves or until), leaves is not None)

    def _heard(
        self,
        connection: http.client.HTTPConnection,
        question: Question,
        until: float,
        leaves: bool,
    ) -> Answer:
        def left() -> float:
            return max(until - time.monotonic(), 0.001)

        try:
            self._wait(connection.sock, until)
            connection.sock.settimeout(left())
            answer = connection.getresponse()
        except TimeoutError:
            self.close()
            if leaves:
                raise Left from None
            return Answer(0, "", b"", f"no answer within {LIMIT:g} s")
        kind = answer.headers.get_content_type()
        if answer.status == 200 and question.dialect is not None and not question.may_refuse:
            self._id = answer.headers["x-request-id"]
        data, why = bytearray(), ""
        try:
            while True:
                if connection.sock:
                    connection.sock.settimeout(left())
                piece = answer.read1(SLICE if question.slow else 1 << 16)
                if not piece:
                    break
                data += piece
                if question.slow:
                    time.sleep(len(piece) / question.slow)
                if len(data) > MOST or time.monotonic() > until:
                    raise TimeoutError
        except TimeoutError:
            self.close()
            if leaves:
                raise Left from None
            return Answer(answer.status, kind, bytes(data), f"no end within {LIMIT:g} s")
        except (OSError, http.client.HTTPException) as error:
            why = f"cut off: {type(error).__name__}: {error}"
        if not why and answer.length:
            why = f"cut off: {answer.length} bytes are missing"
        answer.close()
        if why or answer.will_close or question.slow:
            self.close()
        return Answer(answer.status, kind, bytes(data), why)

    def _wait(self, sock: socket.socket, until: float) -> None:
        """Until the answer begins. Raises TimeoutError, of several gateways sooner from one that
        is away."""
        begun = time.monotonic()
        while not select.select([sock], [], [], min(1.0, max(0.0, until - time.monotonic())))[0]:
            late = time.monotonic() - begun > PATIENCE and self._member.away.is_set()
            if time.monotonic() >= until or (late and len(self._members) > 1):
                raise TimeoutError
