"""The rights of a key, user or team in LiteLLM's fields, and in our own beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from ...accounts.rights import API_GROUPS, APIS, OVERFLOWS, PRIORITIES, Rights, wrong_network
from ...errors import InvalidParameter
from .. import added, fields
from ..fields import Body
from ..schema_fields import TEXT, Field, Schema, flag, mapping, strings, text
from . import limits, values

MAX_RIGHTS = 200  # entries of a list
_EVERY = {"all-proxy-models", "all-team-models", "*"}  # names of all models that a team may use
# What LiteLLM's types of keys may do. Each sets all three rights: a type replaces an earlier one.
TYPES: Mapping[str, Mapping[str, Any]] = {
    "default": {"apis": (), "read_only": False, "admin": False},
    "llm_api": {"apis": ("llm_api_routes",), "read_only": False, "admin": False},
    "read_only": {"apis": (), "read_only": True, "admin": False},
    "management": {"apis": ("management_routes",), "read_only": False, "admin": True},
}


def _names(body: Body, field: str) -> tuple[str, ...]:
    return values.names(body, field, MAX_RIGHTS)


def _models(body: Body, field: str) -> tuple[str, ...]:
    models = _names(body, field)
    return () if _EVERY & set(models) else models


def _apis(body: Body, field: str) -> tuple[str, ...]:
    apis = _names(body, field)
    known = (*APIS, *added(), *API_GROUPS)
    for api in apis:
        if not api.startswith("/") and api not in known:
            raise InvalidParameter(
                field, f"has {api[:60]!r}; it may have paths and {', '.join(known)}"
            )
    return apis


def _networks(body: Body, field: str) -> tuple[str, ...]:
    networks = _names(body, field)
    for network in networks:
        if why := wrong_network(network):
            raise InvalidParameter(field, f"is wrong: {why}")
    return networks


def _group(body: Body, field: str) -> str:
    group = values.name(body, field) or ""
    if " " in group:
        raise InvalidParameter(field, "may not contain spaces")
    return group


def _one_of(*choices: str) -> Callable[[Body, str], str]:
    def read(body: Body, field: str) -> str:
        value = fields.text(body, field)
        if value not in ("", *choices):
            raise InvalidParameter(field, f"must be one of {', '.join(choices)}")
        return value

    return read


def _list(
    key: str, description: str, *example: str, read: Callable[[Body, str], tuple[str, ...]] = _names
) -> Field:
    return Field(strings(description, *example), key, read)


def _choice(key: str, description: str, example: str, choices: Sequence[str]) -> Field:
    return Field(text(description, example, enum=["", *choices]), key, _one_of(*choices))


_BASES = "Names or ids of knowledge bases, or patterns with `*`; empty for all."
_OVERFLOW = "What happens to conversations that do not fit the context."
# The fields of Rights, as keys, users and teams have them.
COLUMNS: dict[str, Field] = {
    "models": _list(
        "models", "Names of models, or patterns with `*`; empty for all.", "qwen*", read=_models
    ),
    "allowed_routes": _list(
        "apis", "Groups of routes, or paths, also with `*`; empty for all.", "chat", read=_apis
    ),
    "allowed_tools": _list(
        "tools", "Tools of the gateway, or patterns with `*`; empty for all.", "web_search"
    ),
    "allowed_knowledge_bases": _list("knowledge", _BASES, "handbook"),
    "allowed_ips": _list(
        "networks", "Addresses and networks of clients; empty for all.", "::1", read=_networks
    ),
    "barred_tiers": _list("barred_tiers", "Tiers of routes that may not be used.", "cloud"),
    "read_only": Field(flag("Allow GET requests only."), "read_only", fields.flag),
    "priority": _choice("priority", "The highest class in the queue.", "low", PRIORITIES),
    "group": Field(text("Keys of one group share cached prompts.", "research"), "group", _group),
    "on_overflow": _choice("on_overflow", _OVERFLOW, "compact", OVERFLOWS),
}
FIELDS: dict[str, Schema | Field] = {
    **COLUMNS,
    "object_permission": mapping(
        "LiteLLM's field: `vector_stores` sets `allowed_knowledge_bases`.",
        {"vector_stores": ["handbook"]},
    ),
    **limits.FIELDS,
}


def parse(body: Body, known: Rights) -> Rights:
    """The known rights with the changes of a body. Null and absent fields change nothing, empty
    ones remove a limit. Raises InvalidParameter."""
    changes = values.changes(body, COLUMNS)
    objects = fields.mapping(body, "object_permission")
    values.refuse_others(objects, {"vector_stores"}, "object_permission.")
    if objects.get("vector_stores") is not None and "knowledge" not in changes:
        changes["knowledge"] = values.names(
            objects, "vector_stores", MAX_RIGHTS, "object_permission."
        )
    return replace(known, **changes, limits=limits.parse(body, known.limits))


def parse_of_key(body: Body, known: Rights) -> Rights:
    """As `parse`, with the fields that only keys have. Other fields of the body count more than its
    type, but no routes are no limit of their own: LiteLLM's clients send an empty list with a
    type."""
    changes: dict[str, Any] = {}
    if kind := _one_of(*TYPES)(body, "key_type"):
        changes.update(TYPES[kind])
        body = {**body, "allowed_routes": body.get("allowed_routes") or None}
    if body.get("admin") is not None:
        changes["admin"] = fields.flag(body, "admin")
    return parse(body, replace(known, **changes))


def shown(rights: Rights) -> dict[str, Any]:
    columns = {field: getattr(rights, column.key) for field, column in COLUMNS.items()}
    return {
        **{field: None if value == "" else value for field, value in columns.items()},
        **limits.shown(rights.limits),
    }


# Rights and limits of a key in a key file: words FIELD=VALUE, with the fields of /key/generate.
# Lists have commas between their entries, objects are JSON without spaces.
_OWN = {"group", "priority", "on_overflow"}  # which the file itself knows
OPTIONS: dict[str, Schema] = {
    name: field.schema if isinstance(field, Field) else field
    for name, field in FIELDS.items()
    if name not in {*_OWN, "object_permission"}
}


def parse_options(options: Mapping[str, str]) -> Rights:
    """The rights of these options. Raises InvalidParameter, with the option as its `param`."""
    for name in options:
        if name not in OPTIONS:
            known = ", ".join(sorted({*OPTIONS, *_OWN}))
            raise InvalidParameter(name[:60], f"is not an option of a key: use {known}")
    body = {name: _option(name, value) for name, value in options.items()}
    return parse(body, Rights())


def _option(name: str, value: str) -> Any:
    schema = OPTIONS[name]
    if schema["type"] == "string":
        return value
    if schema.get("items") is TEXT:
        entries = [entry for entry in value.split(",") if entry]
        if not entries:  # which would mean no bound
            raise InvalidParameter(name, "is empty: name at least one entry, or leave it out")
        return entries
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeError):
        kind = "true or false" if name == "read_only" else "a number, or JSON without spaces"
        raise InvalidParameter(name, f"must be {kind}") from None
