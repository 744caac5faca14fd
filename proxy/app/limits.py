"""Creates the service that enforces the limits of API keys."""

from __future__ import annotations

import atexit

from ..accounts.limiting.allowance import LimitService
from ..accounts.limiting.limiter import Limiter, LocalLimiter
from ..accounts.limiting.shared import SharedLimiter
from ..config import Settings, SettingsError


def limit_service(settings: Settings) -> LimitService:
    """Limits in the process, or in Redis if workers share their state. Raises SettingsError."""
    limiter: Limiter = LocalLimiter()
    if settings.state:
        try:
            limiter = SharedLimiter(settings.state, settings.state_name)
        except ImportError:
            raise SettingsError("--state requires pip install slotproxy[redis]") from None
        except ValueError:
            raise SettingsError("--state: not a Redis URL") from None
    atexit.register(limiter.close)
    return LimitService(
        limiter,
        cached_weight=settings.cached_weight,
        fails_open=settings.limits_fail == "open",
        patience=settings.queue_timeout,
    )
