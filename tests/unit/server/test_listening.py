"""Why slotproxy cannot listen at an address."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from proxy.server import serve
from proxy.server.serve import obstacle


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="reads Linux's /proc")
def test_program_that_uses_the_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        why = obstacle("127.0.0.1", port)
    assert why.startswith(f"cannot listen on 127.0.0.1:{port}: ")
    assert f"(process {os.getpid()}) uses the port; choose another with --port" in why
    assert obstacle("127.0.0.1", port) == ""


def test_program_of_another_user_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "Path", lambda *parts: Path("/no/such", *parts[1:]))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "another program uses the port" in obstacle(*taken.getsockname())


def test_port_that_is_left_in_a_moment_is_no_obstacle() -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    leaving = threading.Timer(0.1, taken.close)
    leaving.start()
    assert obstacle("127.0.0.1", port) == ""
    leaving.join()


@pytest.mark.parametrize(
    ("host", "remedy"),
    [("192.0.2.1", "this machine has no such address"), ("::2", "no such address"), ("", "")],
)
def test_other_obstacles_have_a_remedy(host: str, remedy: str) -> None:
    assert remedy in obstacle(host, 0)
