"""Alerts about budgets: a line in the log, and a request to the webhook of the settings.

The body has the fields of LiteLLM's budget webhooks:
https://docs.litellm.ai/docs/proxy/alerting
"""

from __future__ import annotations

import logging
import threading
import urllib.request
from typing import Any

import msgspec

from ..accounts.limiting.budgets import Alert

TIMEOUT = 10.0  # seconds for the webhook

log = logging.getLogger("slotproxy.limits")


class BudgetAlerts:
    """`webhook` is a URL, "" for none."""

    def __init__(self, webhook: str) -> None:
        self._webhook = webhook

    def __call__(self, alert: Alert) -> None:
        """Log an alert and send it; never waits."""
        log.warning("%s", message_of(alert))
        if self._webhook:
            threading.Thread(target=self._send, args=(alert,), name="alert", daemon=True).start()

    def _send(self, alert: Alert) -> None:
        request = urllib.request.Request(
            self._webhook,
            msgspec.json.encode(body_of(alert)),
            {"Content-Type": "application/json", "User-Agent": "slotproxy"},
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT):
                pass
        except (OSError, ValueError) as error:  # HTTPError is an OSError; the URL is a secret
            reason = getattr(error, "code", None) or type(error).__name__
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
