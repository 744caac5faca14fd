"""Alerts about budgets: a line in the log, and a request to the webhook of the settings.

The body has the fields of LiteLLM's budget webhooks:
https://docs.litellm.ai/docs/proxy/alerting
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import Any

import msgspec

from ..accounts.limiting.budgets import Alert
from ..errors import GatewayError
from ..runtime.lasting import Lasting, no_pause
from ..websearch.fetch import fetch
from ..websearch.guard import EngineRequest

TIMEOUT = 10.0  # seconds for the webhook
MOST_WAITING = 1000  # alerts that wait for the webhook

log = logging.getLogger("slotproxy.limits")


class BudgetAlerts:
    """`webhook` is a URL, "" for none. It may contain a secret, so no message shows it. One thread
    sends the alerts, one after the other; it starts with the first."""

    def __init__(self, webhook: str) -> None:
        self._webhook = webhook
        self._waiting: queue.Queue[Alert] = queue.Queue(MOST_WAITING)
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def __call__(self, alert: Alert) -> None:
        """Log an alert and send it; never waits for the webhook."""
        log.warning("%s", message_of(alert))
        if not self._webhook:
            return
        try:
            self._waiting.put_nowait(alert)
        except queue.Full:
            _failed("too many alerts wait for it, and this one is not sent")
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        sending = Lasting("the webhook of budgets", no_pause)
        while True:
            sending.turn(self._send_next)

    def _send_next(self) -> None:
        body = msgspec.json.encode(body_of(self._waiting.get()))
        headers = {"Content-Type": "application/json", "User-Agent": "slotproxy"}
        request = EngineRequest(self._webhook, headers, body)
        try:
            status = fetch(request, TIMEOUT, open_only=False).status
        except GatewayError as fault:
            _failed(fault.message)
        else:
            if not 200 <= status < 300:
                _failed(f"it answered {status}")


def _failed(reason: str) -> None:
    log.warning("the webhook of budgets (--budget-webhook) failed: %s", reason)


def message_of(alert: Alert) -> str:
    period = f" in this {alert.period}" if alert.period else ""
    limit, most = ("hard", alert.most) if alert.is_hard else ("soft", alert.soft)
    unit = "" if alert.unit == "money" else f" {alert.unit.replace('_', ' ')}"
    return (
        f"budget: the {alert.subject} has reached its {limit} limit of {most:g}{unit}{period}:"
        f" {alert.spent:g} are spent"
    )


def body_of(alert: Alert) -> dict[str, Any]:
    kind, _, name = alert.subject.partition(" ")
    return {
        "event": "budget_crossed" if alert.is_hard else "soft_budget_crossed",
        "event_group": kind,
        "event_message": message_of(alert),
        f"{kind}_id": name,
        "unit": alert.unit,
        "budget_period": alert.period or None,
        "spend": alert.spent,
        "max_budget": alert.most,
        "soft_budget": alert.soft,
    }
