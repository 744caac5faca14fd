"""The ``[[route]]`` tables of the settings file: a model and its backends in tiers, or rules that
choose another model for each conversation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from itertools import chain
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ..core.task import Tier
from .validators import naming, of_table, tables

_Name = Annotated[str, Meta(min_length=1, max_length=200)]


class TierConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tier of a route: its name for logs and rights, and names of backends or models."""

    name: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[!-~]+$")]
    backends: Annotated[tuple[_Name, ...], Meta(min_length=1, max_length=1000)]


class Rule(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """A rule of a route: the first of these `models` that can take a request that has, or has not,
    images and tools, and from `over` up to `under` tokens (0: any number). `loaded`: one that need
    not be loaded first."""

    models: Annotated[tuple[_Name, ...], Meta(min_length=1, max_length=100)]
    images: bool | None = None
    tools: bool | None = None
    over: Annotated[int, Meta(ge=0)] = 0
    under: Annotated[int, Meta(ge=0)] = 0
    loaded: bool = False

    def applies(self, images: bool, tools: bool, tokens: int) -> bool:
        """Whether it is for a request with these."""
        has = self.images in (None, images) and self.tools in (None, tools)
        return has and tokens >= self.over and (not self.under or tokens < self.under)


class RouteConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A ``[[route]]`` table of the file. Clients ask for the `model`. The next of the `tiers` is
    used if no backend of the tiers before is up, or if the expected wait there is longer than
    `overflow_after` seconds. The `rules` come before the tiers, in their order."""

    model: _Name
    tiers: Annotated[tuple[TierConfig, ...], Meta(max_length=16)] = ()
    rules: Annotated[tuple[Rule, ...], Meta(max_length=100)] = ()
    overflow_after: Annotated[float, Meta(ge=0, le=86400)] = 10.0


class Place(msgspec.Struct, frozen=True):
    """Where a backend stands: the model of its route, and its tier there."""

    model: str
    tier: Tier


def read(raw: Any) -> tuple[RouteConfig, ...]:
    """The routes of a file's `route` tables. Raises ValueError, which names the route."""
    routes = tables(raw, "route", partial(of_table, RouteConfig))
    models = [route.model for route in routes]
    ruled = {route.model for route in routes if route.rules}
    seen: dict[str, str] = {}
    for route in routes:
        with naming(route.model):
            if models.count(route.model) > 1:
                raise ValueError("two routes have this model")
            if not (route.tiers or route.rules):
                raise ValueError("a route needs tiers, rules, or both")
            for target in chain.from_iterable(rule.models for rule in route.rules):
                if target in ruled:
                    raise ValueError(f"rules: {target!r} has rules itself: name a model")
            if len({tier.name for tier in route.tiers}) < len(route.tiers):
                raise ValueError("two tiers have the same name")
            backends = [name for tier in route.tiers for name in tier.backends]
            for backend in backends:
                if backend in seen:
                    why = "name it once, or add another [[backend]] table for the same server"
                    where = f"the route {seen[backend]}"
                    raise ValueError(f"the backend {backend!r} is in {where} already; {why}")
                seen[backend] = route.model
    return routes


def rules(routes: Iterable[RouteConfig]) -> Mapping[str, tuple[Rule, ...]]:
    """The rules of the routes that have any, by model. The last one is for a route's own tiers."""
    return {
        route.model: route.rules + ((Rule(models=(route.model,)),) if route.tiers else ())
        for route in routes
        if route.rules
    }


def places(routes: Iterable[RouteConfig]) -> Mapping[str, Place]:
    """The place of each backend in a route, by its name."""
    return {
        name: Place(route.model, Tier(number, tier.name, route.overflow_after))
        for route in routes
        for number, tier in enumerate(route.tiers)
        for name in tier.backends
    }
