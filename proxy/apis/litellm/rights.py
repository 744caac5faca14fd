"""The rights of a key, user or team in LiteLLM's fields, and in our own beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from ...accounts.rights import API_GROUPS, APIS, OVERFLOWS, PRIORITIES, Rights, wrong_network
from ...errors import InvalidParameter
from .. import added, fields
from ..fields import Body
from . import limits, values

FIELDS = limits.FIELDS | {
    "models",
    "allowed_routes",
    "allowed_tools",
    "allowed_knowledge_bases",
    "object_permission",
    "allowed_ips",
    "barred_tiers",
    "read_only",
    "priority",
    "group",
    "on_overflow",
}
OF_KEY = FIELDS | {"key_type", "admin"}
MAX_RIGHTS = 200  # entries of a list
_EVERY = {"all-proxy-models", "all-team-models", "*"}  # names of all models that a team may use
# What LiteLLM's types of keys may do. Each sets all three rights: a type replaces an earlier one.
TYPES: Mapping[str, Mapping[str, Any]] = {
    "default": {"apis": (), "read_only": False, "admin": False},
    "llm_api": {"apis": ("llm_api_routes",), "read_only": False, "admin": False},
    "read_only": {"apis": (), "read_only": True, "admin": False},
    "management": {"apis": ("management_routes",), "read_only": False, "admin": True},
}


def parse_of_key(body: Body, known: Rights) -> Rights:
    """As `parse`, with the fields that only keys have. Other fields of the body count more than its
    type, but no routes are no limit of their own: LiteLLM's clients send an empty list with a
    type."""
    changes: dict[str, Any] = {}
    if kind := fields.text(body, "key_type"):
        if kind not in TYPES:
            raise InvalidParameter("key_type", f"must be one of {', '.join(TYPES)}")
        changes.update(TYPES[kind])
        body = {**body, "allowed_routes": body.get("allowed_routes") or None}
    if body.get("admin") is not None:
        changes["admin"] = fields.flag(body, "admin")
    return parse(body, replace(known, **changes))


def parse(body: Body, known: Rights) -> Rights:
    """The known rights with the changes of a body. Null and absent fields change nothing, empty
    ones remove a limit. Raises InvalidParameter."""
    changes: dict[str, Any] = {}
    if body.get("models") is not None:
        models = values.names(body, "models", MAX_RIGHTS)
        changes["models"] = () if _EVERY & set(models) else models
    if body.get("allowed_routes"):
        changes["apis"] = _apis(body)
    elif body.get("allowed_routes") is not None:
        changes["apis"] = ()
    if body.get("allowed_tools") is not None:
        changes["tools"] = values.names(body, "allowed_tools", MAX_RIGHTS)
    if (bases := _knowledge_bases(body)) is not None:
        changes["knowledge"] = bases
    if body.get("allowed_ips") is not None:
        changes["networks"] = _networks(body)
    if body.get("barred_tiers") is not None:
        changes["barred_tiers"] = values.names(body, "barred_tiers", MAX_RIGHTS)
    if body.get("read_only") is not None:
        changes["read_only"] = fields.flag(body, "read_only")
    if body.get("priority") is not None:
        priority = fields.text(body, "priority")
        if priority not in ("", *PRIORITIES):
            raise InvalidParameter("priority", f"must be one of {', '.join(PRIORITIES)}")
        changes["priority"] = priority
    if body.get("group") is not None:
        group = values.name(body, "group") or ""
        if " " in group:
            raise InvalidParameter("group", "may not contain spaces")
        changes["group"] = group
    if body.get("on_overflow") is not None:
        told = fields.text(body, "on_overflow")
        if told not in ("", *OVERFLOWS):
            raise InvalidParameter("on_overflow", f"must be one of {', '.join(OVERFLOWS)}")
        changes["on_overflow"] = told
    return replace(known, **changes, limits=limits.parse(body, known.limits))


def shown(rights: Rights) -> dict[str, Any]:
    return {
        "models": rights.models,
        "allowed_routes": rights.apis,
        "allowed_tools": rights.tools,
        "allowed_knowledge_bases": rights.knowledge,
        "allowed_ips": rights.networks,
        "barred_tiers": rights.barred_tiers,
        "read_only": rights.read_only,
        "priority": rights.priority or None,
        "group": rights.group or None,
        "on_overflow": rights.on_overflow or None,
        **limits.shown(rights.limits),
    }


def _knowledge_bases(body: Body) -> tuple[str, ...] | None:
    """The field of ours, or else LiteLLM's `object_permission.vector_stores`."""
    if body.get("allowed_knowledge_bases") is not None:
        return values.names(body, "allowed_knowledge_bases", MAX_RIGHTS)
    if body.get("object_permission") is None:
        return None
    objects = fields.mapping(body, "object_permission")
    values.refuse_others(objects, {"vector_stores"}, "object_permission.")
    if objects.get("vector_stores") is None:
        return None
    return values.names(objects, "vector_stores", MAX_RIGHTS, "object_permission.")


def _apis(body: Body) -> tuple[str, ...]:
    apis = values.names(body, "allowed_routes", MAX_RIGHTS)
    known = (*APIS, *added(), *API_GROUPS)
    for one in apis:
        if not one.startswith("/") and one not in known:
            raise InvalidParameter(
                "allowed_routes", f"has {one[:60]!r}; it may have paths and {', '.join(known)}"
            )
    return apis


def _networks(body: Body) -> tuple[str, ...]:
    networks = values.names(body, "allowed_ips", MAX_RIGHTS)
    for one in networks:
        if why := wrong_network(one):
            raise InvalidParameter("allowed_ips", f"is wrong: {why}")
    return networks


# Rights and limits of a key in a key file: words FIELD=VALUE, with the fields of /key/generate.
# Lists have commas between their entries, objects are JSON without spaces.
_LISTS = frozenset(
    {
        "models",
        "allowed_routes",
        "allowed_tools",
        "allowed_knowledge_bases",
        "allowed_ips",
        "barred_tiers",
    }
)
_TEXTS = frozenset({"on_limit", "budget_duration"})
_OWN = frozenset({"group", "priority", "on_overflow"})  # which the file itself knows
OPTIONS = FIELDS - _OWN - {"object_permission"}


def parse_options(options: Mapping[str, str]) -> Rights:
    """The rights of these options. Raises InvalidParameter, with the option as its `param`."""
    for name in options:
        if name not in OPTIONS:
            known = ", ".join(sorted(OPTIONS | _OWN))
            raise InvalidParameter(name[:60], f"is not an option of a key: use {known}")
    body = {name: _option(name, text) for name, text in options.items()}
    return parse(body, Rights())


def _option(name: str, text: str) -> Any:
    if name in _TEXTS:
        return text
    if name in _LISTS:
        entries = [one for one in text.split(",") if one]
        if not entries:  # which would mean no bound
            raise InvalidParameter(name, "is empty: name at least one entry, or leave it out")
        return entries
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError):
        kind = "true or false" if name == "read_only" else "a number, or JSON without spaces"
        raise InvalidParameter(name, f"must be {kind}") from None
