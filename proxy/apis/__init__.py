"""The public APIs, one folder each, and the one list of them.

A folder has the pure parts of an API, and `routes`, the only module that knows Flask. Installed
packages add APIs by entry points of the group `slotproxy.apis`; setup.cfg adds GLM's and
Chatchat's. An API with a switch of its name in the settings is served only if that is on.
"""

from __future__ import annotations

from collections.abc import Mapping
from configparser import RawConfigParser
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

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
    checkout = RawConfigParser()
    checkout.read(Path(__file__).parents[2] / "setup.cfg", encoding="utf-8")
    lines = checkout.get("options.entry_points", GROUP, fallback="").split("\n")
    pairs = [line.partition("=") for line in lines if line]
    named = {name.strip(): module.strip() for name, _, module in pairs}
    return named | {point.name: point.value for point in sorted(entry_points(group=GROUP))}
