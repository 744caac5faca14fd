"""Creates the service that enforces the limits and budgets of API keys."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from ..accounts.limiting.allowance import LimitService
from ..accounts.limiting.budgets import Price, Used, cost, price_of, unit_of, units
from ..accounts.limiting.limiter import Limiter, LocalLimiter, Spent, nothing
from ..accounts.limiting.meters import Charge
from ..accounts.limiting.shared import SharedLimiter
from ..config import Settings, SettingsError
from .budget_alerts import BudgetAlerts
from .life import Life, Step

if TYPE_CHECKING:
    from ..store.ledger import Ledger  # imports SQLAlchemy


def limit_service(settings: Settings, life: Life, ledger: Ledger | None) -> LimitService:
    """Limits in the process, or in Redis if workers share their state. What was spent of budgets
    before is read from the ledger. Raises SettingsError."""
    prices = [Price(**msgspec.structs.asdict(one)) for one in settings.price]
    spent = nothing if ledger is None else _spent(ledger, prices)
    limiter: Limiter = LocalLimiter(spent=spent)
    if settings.state:
        try:
            limiter = SharedLimiter(settings.state, settings.state_name, spent)
        except ImportError:
            raise SettingsError("--state requires pip install slotproxy[redis]") from None
        except ValueError:
            raise SettingsError("--state: not a Redis URL") from None
    life.on_close(Step.LIMITS, limiter.close)
    return LimitService(
        limiter,
        patience=settings.queue_timeout,
        most_waiting=settings.max_queue,
        prices=prices,
        alert=BudgetAlerts(settings.budget_webhook),
    )


def _spent(ledger: Ledger, prices: Sequence[Price]) -> Spent:
    """What the ledger's sums say was spent of a budget since the begin of its period."""

    def spent(charge: Charge) -> int:
        unit = unit_of(charge.meter)
        if unit is None:
            return 0
        kind, _, name = charge.subject.partition(" ")
        begin, end = 1000 * charge.meter.epoch, int(1000 * time.time()) + 1
        amount = 0.0
        for group in ledger.groups(begin, end, by=("model",), only={kind: (name,)}):
            sums, price = group.sums, price_of(prices, group.names["model"])
            used = Used(sums.prompt, sums.cached, sums.completion, sums.slot_seconds)
            amount += cost(unit, used, price, cached_weight=1.0)
        return units(unit, amount)

    return spent
