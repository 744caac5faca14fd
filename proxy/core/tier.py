"""The place of a backend in the route of its model."""

from __future__ import annotations

import math

from msgspec import Struct


class Tier(Struct, frozen=True, array_like=True):
    """`number` counts the tiers of a route from 0, and `name` is the tier's name, "" outside of
    routes. The next tier is used if no backend of this one is up, or if a request would wait for
    more than `overflow_after` seconds in all. `canary` is the share of the conversations that the
    backend gets as a canary, 0 for a backend that is none."""

    number: int = 0
    name: str = ""
    overflow_after: float = math.inf
    canary: float = 0.0


NO_TIER = Tier()
