"""Addresses of PostgreSQL's hosts."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import Any

import pytest

from proxy.store import postgres
from proxy.store.postgres import with_addresses

KNOWN = {"one": ["192.0.2.1"], "two": ["192.0.2.2", "2001:db8::2"]}
CODE = """
from gevent import monkey
monkey.patch_all()
import _socket
import gevent
from proxy.runtime.blocking import run_in_native_thread
from proxy.errors import StoreUnavailable
from proxy.store import postgres
from proxy.store.database import Database

silent = monkey.get_original("_thread", "allocate_lock")()
silent.acquire()

def getaddrinfo(*_, **__):
    with silent:
        raise OSError("the name server is silent")

_socket.getaddrinfo = getaddrinfo
postgres.CONNECTING = 0.5
database = Database("postgresql://ann@database.invalid/kept")

def connect():
    try:
        database.engine.connect()
    except StoreUnavailable:
        return True

asked = [gevent.spawn(connect) for _ in range(12)]
gevent.sleep(0)
with gevent.Timeout(60, SystemExit("other work waits for the name server")):
    assert run_in_native_thread(lambda: 1) == 1
with gevent.Timeout(60, SystemExit("a request waits for the name server")):
    gevent.joinall(asked)
assert all(one.value for one in asked)
silent.release()
"""


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    def addresses(host: str) -> list[str]:
        if host not in KNOWN:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return KNOWN[host]

    monkeypatch.setattr(postgres, "_addresses", addresses)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dbname": "kept"},
        {"host": "/run/postgresql"},
        {"host": "192.0.2.9", "port": 5432},
        {"host": "::1,192.0.2.9"},
        {"host": "one", "hostaddr": "192.0.2.9"},
    ],
)
def test_address_without_host_name_is_unchanged(options: dict[str, Any]) -> None:
    assert with_addresses(options, 1.0) == options


def test_every_address_of_a_host_is_tried() -> None:
    given = with_addresses({"host": "two", "port": 5433, "user": "ann"}, 1.0)
    assert given == {
        "host": "two,two", "hostaddr": "192.0.2.2,2001:db8::2", "port": "5433,5433", "user": "ann",
    }  # fmt: skip


def test_hosts_keep_their_ports() -> None:
    given = with_addresses({"host": "one,two", "port": "1,2"}, 1.0)
    assert (given["host"], given["port"]) == ("one,two,two", "1,2,2")
    assert "port" not in with_addresses({"host": "one,two"}, 1.0), "it may be in the environment"


def test_unknown_host_is_skipped() -> None:
    assert with_addresses({"host": "none,one"}, 1.0)["hostaddr"] == "192.0.2.1"
    with pytest.raises(socket.gaierror):
        with_addresses({"host": "none"}, 1.0)


def test_silent_name_server_blocks_no_other_work() -> None:
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
