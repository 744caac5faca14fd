"""How many requests that use idle slots only a model may have at the moment."""

from __future__ import annotations

from ..backends.registry import Registry
from ..errors import GatewayError
from ..scheduling.interface import Scheduler


def idle_slots(registry: Registry, scheduler: Scheduler, name: str) -> int | None:
    """The number for the model that this name means, with those under way; None if that is known
    only by asking: there is no such model, or it must be loaded first."""
    try:
        model, _ = registry.resolve(name)
    except GatewayError:
        return None
    return None if registry.unknown(model) else scheduler.idle_slots(model)
