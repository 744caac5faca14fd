"""What the routes under /llm_model, /server and /other are asked and answer.

`controller_address`, which some of them take, names a server to be called in the original: it is
not looked at here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from ...core.invalid import Invalid
from ..fields import Body, flag, items, text
from .asked import FOLDERS

LOCAL = "local"  # of the kinds of models that its client asks for: local, online, worker


class Model(Struct, frozen=True):
    """A model that is served. `n_ctx` in tokens, 0 where it is not known."""

    name: str
    up: bool
    kind: str
    n_ctx: int = 0


class Template(Struct, frozen=True):
    """Which prompt template is wanted: a folder of templates/dialogues and a name in it."""

    folder: str
    name: str


class Texts(Struct, frozen=True):
    texts: tuple[str, ...]
    model: str
    is_query: bool


def running(models: Sequence[Model]) -> dict[str, Any]:
    return {one.name: config(one) for one in models if one.up}


def configured(body: Body, models: Sequence[Model]) -> dict[str, Any]:
    """Raises Invalid."""
    wanted = items(body, "types") or [LOCAL]
    # Its client takes the lists of kinds it asked for, and looks for others as well.
    return {LOCAL: {one.name: config(one) for one in models}} if LOCAL in wanted else {}


def config(model: Model) -> dict[str, Any]:
    """What is told of a model: no addresses, no paths, no keys."""
    out = {"online_api": False, "model_name": model.name, "device": model.kind, "running": model.up}
    return {**out, "context_length": model.n_ctx} if model.n_ctx else out


def model_name(body: Body) -> str:
    return text(body, "model_name")


def change(body: Body) -> tuple[str, str]:
    """The model to stop and the one to start instead. Raises Invalid."""
    old, new = text(body, "model_name"), text(body, "new_model_name")
    if not new:
        raise Invalid("new_model_name", "is missing")
    return old, new


def template(body: Body) -> Template:
    """Raises Invalid."""
    folder = text(body, "type") or FOLDERS["chat"]
    if folder not in FOLDERS.values():
        raise Invalid("type", f"must be one of {', '.join(FOLDERS.values())}")
    return Template(folder, text(body, "name") or "default")


def texts(body: Body) -> Texts:
    """Raises Invalid."""
    values = items(body, "texts")
    if not values or not all(type(value) is str and value for value in values):
        raise Invalid("texts", "must be a list of texts")
    return Texts(tuple(values), text(body, "embed_model"), flag(body, "to_query"))
