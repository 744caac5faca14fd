"""Creates the service that enforces the limits and budgets of API keys."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from ..accounts.limiting.allowance import Limiter, LimitService
from ..accounts.limiting.budgets import Alert, Price, Used, cost, plain, price_of, unit_of, units
from ..accounts.limiting.limiter import Charge, LocalLimiter, Spent, nothing
from ..accounts.limiting.shared import SharedLimiter
from ..config import Settings
from ..errors import GatewayError
from ..runtime.life import Life, Step
from ..websearch.fetch import EngineRequest, fetch

if TYPE_CHECKING:
    from ..store.ledger import Ledger  # imports SQLAlchemy


TIMEOUT = 10.0  # seconds for the webhook

log = logging.getLogger("slotproxy.limits")


def budget_alert(webhook: str, alert: Alert) -> None:
    """Log an alert, and send it to the `webhook`, a URL, "" for none. Does not wait for that."""
    log.warning("%s", message_of(alert))
    if webhook:
        threading.Thread(target=_send, args=(webhook, alert), name="alert", daemon=True).start()


def _send(webhook: str, alert: Alert) -> None:
    """Log a failure without the URL, which may contain a secret."""
    headers = {"Content-Type": "application/json", "User-Agent": "slotproxy"}
    request = EngineRequest(webhook, headers, msgspec.json.encode(body_of(alert)))
    try:
        status = fetch(request, TIMEOUT).status
        reason = "" if 200 <= status < 300 else f"it answered {status}"
    except GatewayError as error:
        reason = error.message
    if reason:
        log.warning("the webhook of budgets (--budget-webhook) failed: %s", reason)


def message_of(alert: Alert) -> str:
    period = f" in this {alert.period}" if alert.period else ""
    limit, most = ("hard", alert.most) if alert.is_hard else ("soft", alert.soft)
    unit = "" if alert.unit == "money" else f" {alert.unit.replace('_', ' ')}"
    return (
        f"budget: the {alert.subject} has reached its {limit} limit of {plain(most or 0)}{unit}"
        f"{period}: {plain(alert.spent)} are spent{' or reserved' if alert.is_hard else ''}"
        f"{alert.cost}"
    )


def body_of(alert: Alert) -> dict[str, Any]:
    """As LiteLLM's budget webhooks: https://docs.litellm.ai/docs/proxy/alerting."""
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


def limit_service(settings: Settings, life: Life, ledger: Ledger | None) -> LimitService:
    """Limits in the process, or in Redis; the ledger knows what was spent."""
    spent = nothing if ledger is None else _spent(ledger, settings.price)
    limiter: Limiter = LocalLimiter(spent=spent)
    if settings.state:
        limiter = SharedLimiter(settings.state, settings.state_name, spent)
    life.on_close(Step.LIMITS, limiter.close)
    alert = partial(budget_alert, settings.budget_webhook)
    return LimitService(limiter, prices=settings.price, alert=alert)


def _spent(ledger: Ledger, prices: Sequence[Price]) -> Spent:
    """What the ledger's sums say was spent of a budget since the begin of its period. Workers whose
    clocks are ahead write hours that have not begun here, so there is no end."""

    def spent(charge: Charge) -> int:
        unit = unit_of(charge.meter)
        if unit is None:
            return 0
        kind, _, name = charge.subject.partition(" ")
        begin, amount = 1000 * charge.meter.epoch, 0.0
        for group in ledger.groups(begin, sys.maxsize, by=("model",), only={kind: (name,)}):
            sums, price = group.sums, price_of(prices, group.names["model"])
            used = Used(sums.prompt, sums.cached, sums.completion, sums.slot_seconds)
            amount += cost(unit, used, price)
        return units(unit, amount)

    return spent
