"""Parses requests of the routes under /llm_model, /server and /other, and builds their answers.

Some take `controller_address`, the server that the original calls; it is ignored here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from ...errors import InvalidParameter
from ..fields import Body, flag, items, text
from .params import FOLDERS

LOCAL = "local"  # of the client's kinds of models: local, online, worker


class ChatchatModel(Struct, frozen=True):
    """A served model. `n_ctx` is in tokens, 0 if unknown."""

    name: str
    up: bool
    kind: str
    n_ctx: int = 0


class Template(Struct, frozen=True):
    """A prompt template: a folder of templates/dialogues and a name in it."""

    folder: str
    name: str


class Texts(Struct, frozen=True):
    texts: tuple[str, ...]
    model: str
    is_query: bool


def running(models: Sequence[ChatchatModel]) -> dict[str, Any]:
    return {model.name: config(model) for model in models if model.up}


def configured(body: Body, models: Sequence[ChatchatModel]) -> dict[str, Any]:
    """Raises InvalidParameter."""
    wanted = items(body, "types") or [LOCAL]
    # All models are local here; other kinds that the client requests are left out.
    return {LOCAL: {model.name: config(model) for model in models}} if LOCAL in wanted else {}


def config(model: ChatchatModel) -> dict[str, Any]:
    """A model's configuration, without addresses, paths and keys."""
    values = {
        "online_api": False,
        "model_name": model.name,
        "device": model.kind,
        "running": model.up,
    }
    return {**values, "context_length": model.n_ctx} if model.n_ctx else values


def model_name(body: Body) -> str:
    return text(body, "model_name")


def change(body: Body) -> tuple[str, str]:
    """The model to stop and the one to start instead. Raises InvalidParameter."""
    old, new = text(body, "model_name"), text(body, "new_model_name")
    if not new:
        raise InvalidParameter("new_model_name", "is missing")
    return old, new


def template(body: Body) -> Template:
    """Raises InvalidParameter."""
    folder = text(body, "type") or FOLDERS["chat"]
    if folder not in FOLDERS.values():
        raise InvalidParameter("type", f"must be one of {', '.join(FOLDERS.values())}")
    return Template(folder, text(body, "name") or "default")


def texts(body: Body) -> Texts:
    """Raises InvalidParameter."""
    values = items(body, "texts")
    if not values or not all(type(value) is str and value for value in values):
        raise InvalidParameter("texts", "must be a list of strings")
    return Texts(tuple(values), text(body, "embed_model"), flag(body, "to_query"))
