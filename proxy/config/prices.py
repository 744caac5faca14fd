"""``[[price]]`` tables of the settings file: what tokens of models cost."""

from __future__ import annotations

import math
from typing import Any

import msgspec

MOST = 10**9


class PriceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a million tokens of a model cost; ``model`` may be a pattern with ``*``. Cached tokens
    of a prompt cost as much as others unless ``cached`` says otherwise."""

    model: str = "*"
    prompt: float = 0.0
    cached: float | None = None
    completion: float = 0.0


def prices(raw: Any) -> tuple[PriceConfig, ...]:
    """Raises ValueError."""
    found = msgspec.convert(raw, tuple[PriceConfig, ...])
    for one in found:
        for name in ("prompt", "cached", "completion"):
            amount = getattr(one, name)
            if amount is not None and not (math.isfinite(amount) and 0 <= amount <= MOST):
                raise ValueError(
                    f"{name} of {one.model!r} must be between 0 and {MOST:g} for a million tokens"
                )
    return found
