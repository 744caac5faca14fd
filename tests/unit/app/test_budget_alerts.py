"""Alerts about budgets: no answer of a webhook does harm."""

from __future__ import annotations

import socket

import pytest

from proxy.accounts.limiting.budgets import Alert
from proxy.app.limits import budget_alert
from tests.fakes import wait_until
from tests.unit.backends.rawserver import RawServer

ALERT = Alert("key k", "money", "day", 1.0, 1.0, 1.0, True)


def _play(sock: socket.socket, answer: bytes) -> None:
    sock.sendall(answer)
    sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"220 smtp ready\r\n", "the web server sent invalid HTTP"),
        (b"", "the web server closed the connection"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", "it answered 500"),
        (b"HTTP/1.1 307 No\r\nLocation: http://127.0.0.1:9/\r\n\r\n", "it answered 307"),
    ],
)
def test_webhook_that_fails_is_logged_without_its_url(
    answer: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with RawServer([lambda sock: _play(sock, answer)]) as server:
        budget_alert(f"{server.url}/secret", ALERT)
        wait_until(lambda: f"(--budget-webhook) failed: {reason}" in caplog.text)
        assert "secret" not in caplog.text and "Traceback" not in caplog.text
