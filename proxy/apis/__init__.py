"""The public APIs, one folder each, and the one list of them.

A folder has the pure parts of an API, and `routes`, the only module that knows Flask. Installed
packages add APIs by entry points of the group `slotproxy.apis`; setup.cfg adds GLM's and
Chatchat's. An API with a switch of its name in the settings is served only if that is on.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

GROUP = "slotproxy.apis"
OWN = (
    "openai responses conversations anthropic ollama embeddings llamacpp status mcp models media"
    " files batches vector_stores data litellm usage requests".split()
)


def modules() -> Mapping[str, str]:
    """The module of each API's routes, to be imported when an application registers them."""
    own = {name: f"{__name__}.{name}.routes" for name in OWN}
    return {**own, **{name: module for name, module in added().items() if name not in own}}


@cache
def added() -> Mapping[str, str]:
    """The APIs that entry points add. Those of a checkout are read from its setup.cfg: what is
    installed of it may be older, or nothing at all."""
    checkout, lines = Path(__file__).parents[2] / "setup.cfg", list[str]()
    if checkout.exists():
        from configparser import RawConfigParser  # developers alone have a checkout

        parser = RawConfigParser()
        parser.read(checkout, encoding="utf-8")
        lines = parser.get("options.entry_points", GROUP, fallback="").split("\n")
    pairs = [line.partition("=") for line in lines if line]
    named = {name.strip(): module.strip() for name, _, module in pairs}
    points = sorted(all_points(tuple(sys.path)).select(group=GROUP))
    return named | {point.name: point.value for point in points}


@lru_cache(1)
def all_points(path: tuple[str, ...]) -> Any:
    """All entry points. Their files are read once: those of 200 packages take 5 milliseconds."""
    return entry_points()
