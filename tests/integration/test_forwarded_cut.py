"""Sound that the gateway ends in mid-answer arrives as one that was cut, never as a whole one, and
is counted by the reason.

Its bytes have no place for an error. So the client sees it by the end of the connection, before the
last chunk or the last byte of its length.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.fakes import key_file, wait_until
from tools.processes import Gateway

from .conftest import QUIET
from .test_forwarding import other
from .test_stopping import CODE, SERVERS, make_impatient

SOUND = "la" * 1000
FORMS = {"chunked": {}, "sized": {"sized": True}}
ADMIN = {"Authorization": "Bearer sk-ops"}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    made: list[Gateway] = []

    def begin(*flags: str) -> Gateway:
        file = tmp_path / "slotproxy.toml"
        file.write_text(other("singer"))
        keys = key_file(tmp_path, "ops sk-ops\n")
        stored = ("--api-key-file", keys, "--admins", "ops", "--data", str(tmp_path / "data"))
        log = tmp_path / "gateway.log"
        gateway = Gateway(("--config", str(file), *stored, *flags), log, env=QUIET)
        make_impatient(gateway)
        made.append(gateway)
        gateway.start()
        return gateway

    yield begin
    for gateway in made:
        gateway.kill()


class Sound:
    """Speech of 25 s, read from a socket of its own."""

    def __init__(self, gateway: Gateway, form: str, key: str = "sk-ops") -> None:
        place = urlsplit(gateway.url)
        body = json.dumps({"model": "singer", "input": SOUND, "pause": 5.0, **FORMS[form]})
        head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: {place.netloc}\r\n"
        head += f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n{body}"
        self._sock = socket.create_connection((place.hostname, place.port), 60.0)
        self._sock.sendall(head.encode())
        self._read = b""
        while b"lala" not in self._read:
            part = self._sock.recv(65536)
            assert part, self._read
            self._read += part

    def leave(self) -> None:
        """Send no more: to a server, such a client has left."""
        self._sock.shutdown(socket.SHUT_WR)

    def check_cut(self) -> None:
        with self._sock, contextlib.suppress(ConnectionResetError):
            while part := self._sock.recv(65536):
                self._read += part
        head, _, body = self._read.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        if b"chunked" in head.lower():
            assert not body.endswith(b"0\r\n\r\n"), body[-200:]
        else:
            assert f"content-length: {len(SOUND)}".encode() in head.lower()
        assert b"error" not in body
        assert 0 < body.count(b"la") < len(SOUND) / 2


def outcomes(gateway: Gateway, folder: Path) -> tuple[list[str], list[str]]:
    """Of the sounds: in the access log and in the ledger."""
    lines = [json.loads(line) for line in gateway.log.splitlines() if line.startswith('{"id"')]
    logged = [line["outcome"] for line in lines if line["path"] == "/v1/audio/speech"]
    with contextlib.closing(sqlite3.connect(folder / "data/slotproxy.db")) as db:
        rows: list[Any] = db.execute("select outcome from ledger_row order by id").fetchall()
    return logged, [row[0] for row in rows]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("server", SERVERS)
def test_sound_is_cut_by_a_stop(
    start: Callable[..., Gateway], tmp_path: Path, server: str, form: str
) -> None:
    gateway = start(*SERVERS[server])
    sound = Sound(gateway, form)
    gateway.send(signal.SIGTERM)
    sound.check_cut()
    assert gateway.wait() == 0, gateway.log
    assert outcomes(gateway, tmp_path) == ([CODE], [CODE])
    assert "Traceback" not in gateway.log, gateway.log


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("server", SERVERS)
def test_sound_is_cut_by_the_end_of_its_key(
    start: Callable[..., Gateway], tmp_path: Path, server: str, form: str
) -> None:
    gateway = start(*SERVERS[server])
    key = httpx.post(f"{gateway.url}/key/generate", json={}, headers=ADMIN).json()["key"]
    sound = Sound(gateway, form, key)
    httpx.post(f"{gateway.url}/key/block", json={"key": key}, headers=ADMIN).raise_for_status()
    sound.check_cut()
    code = "invalid_api_key"
    wait_until(lambda: outcomes(gateway, tmp_path) == ([code], [code]))
    assert "Traceback" not in gateway.log, gateway.log


@pytest.mark.parametrize("server", SERVERS)
def test_client_that_seems_to_have_left_gets_no_end(
    start: Callable[..., Gateway], tmp_path: Path, server: str
) -> None:
    gateway = start(*SERVERS[server])
    sound = Sound(gateway, "chunked")
    sound.leave()
    sound.check_cut()
    wait_until(lambda: outcomes(gateway, tmp_path) == (["cancelled"], ["cancelled"]))
    assert "Traceback" not in gateway.log, gateway.log
