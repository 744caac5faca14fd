"""The page that connects other programs: address, key and model, and what to paste for each.

The texts are in templates/connect.toml, which the documentation shows, too. The page fills in the
values; its script replaces them when the reader chooses others. A pasted key stays in the browser.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from flask import Response, make_response, render_template, request
from msgspec import Struct

from ...runtime import installation
from ..services import current_services
from . import api, chat_models, guard, session, texts
from .accounts import API as ACCOUNTS

blueprint = guard.guarded("panel_connect", open_to_all=("reference",))

FILE = "connect.toml"  # in templates/
_PLACE = re.compile(r"\{(address|key|model|context|input|output)\}")
# What a name or key may have: nothing that ends a quoted text of a shell, JSON, TOML, YAML or
# Python. connect.js has the same.
PLAIN = re.compile(r"(?:(?![\"'\\`$!{}])[ -~]|\w)+")
KEY, MODEL = "YOUR_KEY", "MODEL"  # placeholders until the reader chooses
NO_KEY = "anything"  # the key for a gateway without keys: some programs need one
CONTEXT = 32_768  # tokens; for models whose context is not known yet
ANSWER = 4_096  # tokens


class Part(Struct, frozen=True, forbid_unknown_fields=True):
    """A text for one place: a terminal, a script, a file, or the settings of the program."""

    where: str
    language: str
    text: str
    install: bool = False
    keyless: bool = False


class Program(Struct, frozen=True, forbid_unknown_fields=True):
    """`tokens`: how many it sends at first, 0 if that is few."""

    id: str
    name: str
    part: tuple[Part, ...]
    tokens: int = 0


@functools.cache
def programs() -> tuple[Program, ...]:
    read = msgspec.toml.decode((installation.templates() / FILE).read_text("utf-8"))
    return msgspec.convert(read["program"], tuple[Program, ...])


def pieces(text: str, values: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Split a text of a part into pairs: the name of a value and the value, or "" and text."""
    at = 0
    for place in _PLACE.finditer(text):
        yield "", text[at : place.start()]
        yield place[1], str(values[place[1]])
        at = place.end()
    yield "", text[at:]


def filled(text: str, values: Mapping[str, object]) -> str:
    """A text of a part with its values, as a reader pastes it."""
    return "".join(piece for _, piece in pieces(text, values)).strip() + "\n"


def sizes(context: int) -> dict[str, int]:
    """The values that follow from the context of a model; 0 if it is not known."""
    context = context or CONTEXT
    output = min(ANSWER, context // 4)
    return {"context": context, "input": context - output, "output": output}


def plain(value: str, otherwise: str) -> str:
    return value if PLAIN.fullmatch(value) else otherwise


@blueprint.get("/connect")
def page() -> Response:
    services = current_services()
    owner, keys = api.owner(), services.keys
    models = [
        {"name": plain(model.name, MODEL), "title": model.title, **sizes(model.context)}
        for model in chat_models.models(services, request.environ)
    ]
    first: dict[str, Any] = models[0] if models else {"name": MODEL, **sizes(0)}
    prefix = services.settings.api_prefix
    scheme = "https" if session.is_https() else "http"
    values = {
        **first,
        "address": f"{scheme}://{request.host}{prefix}",
        "key": KEY if keys.needed else NO_KEY,
        "model": first["name"],
    }
    may_make = keys.needed and services.accounts is not None
    text = render_template(
        "connect.html",
        programs=programs(),
        pieces=functools.partial(pieces, values=values),
        values=values,
        models=models,
        key_needed=keys.needed,
        known_text=texts.known,
        may_make=may_make and services.keys.is_admin(owner),
        api=prefix + ACCOUNTS,
    )
    return make_response(text)


# The viewer, RapiDoc, has inline styles. It needs no inline scripts, no eval and no fonts.
REFERENCE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; connect-src 'self'; manifest-src 'self'; base-uri 'none';"
    " form-action 'self'; frame-ancestors 'none'"
)


@blueprint.get("/docs")
def reference() -> Response:
    """The API reference: /openapi.json in a viewer. It needs no key, as the document needs none."""
    response = make_response(render_template("reference.html", model=_model()))
    response.headers["Content-Security-Policy"] = REFERENCE_POLICY
    return response


def _model() -> str:
    """The name of a model for the examples; "" without a signed-in reader."""
    if session.signed_in() is None:
        return ""
    session.require()
    return next(iter(chat_models.names(current_services(), request.environ)), "")
