"""Alerts about budgets reach the webhook one after the other, and none of its answers does harm."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from proxy.accounts.limiting.budgets import Alert
from proxy.app import limits
from proxy.app.limits import BudgetAlerts
from proxy.runtime import lasting
from proxy.websearch.fetch import EngineRequest, WebPage
from tests.fakes import wait_until
from tests.unit.backends.rawserver import RawServer

ALERT = Alert("key k", "money", "day", 1.0, 1.0, 1.0, True)
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"


def _play(sock: socket.socket, answer: bytes) -> None:
    sock.sendall(answer)
    sock.shutdown(socket.SHUT_WR)


class Webhook:
    """Stands for `fetch`: answers when it may."""

    def __init__(self) -> None:
        self.began, self.go_on = threading.Event(), threading.Event()
        self.threads: list[str] = []

    def __call__(self, request: EngineRequest, seconds: float) -> WebPage:
        self.threads.append(threading.current_thread().name)
        self.began.set()
        assert self.go_on.wait(60)
        return WebPage(204, b"", request.url)


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Webhook:
    made = Webhook()
    monkeypatch.setattr(limits, "fetch", made)
    return made


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
        alerts = BudgetAlerts(f"{server.url}/secret")
        alerts(ALERT)
        wait_until(lambda: f"(--budget-webhook) failed: {reason}" in caplog.text)
        assert "secret" not in caplog.text and "Traceback" not in caplog.text


def test_proxy_of_the_environment_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with RawServer([NO_CONTENT]) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        BudgetAlerts("http://127.0.0.1:9/secret")(ALERT)
        wait_until(lambda: "failed: the web server is unreachable" in caplog.text)


def test_waiting_alerts_are_bounded(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "MOST_WAITING", 2)
    alerts = BudgetAlerts("http://127.0.0.1:9/")
    alerts(ALERT)
    assert webhook.began.wait(60)
    for _ in range(3):
        alerts(ALERT)
    assert caplog.text.count("too many alerts wait for it") == 1
    webhook.go_on.set()
    wait_until(lambda: len(webhook.threads) == 3)


def test_alerts_are_sent_after_an_exception(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lasting, "PAUSE", 0.001)
    calls: list[Any] = []

    def fetch(*args: Any, **more: Any) -> WebPage:
        calls.append(args)
        if len(calls) == 1:
            raise RuntimeError("nobody foresaw it")
        return WebPage(204, b"", "")

    monkeypatch.setattr(limits, "fetch", fetch)
    alerts = BudgetAlerts("http://127.0.0.1:9/")
    alerts(ALERT)
    alerts(ALERT)
    wait_until(lambda: len(calls) == 2)
    assert "the webhook of budgets failed; retrying" in caplog.text
