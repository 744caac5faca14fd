"""LiteLLM's routes for keys."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from flask import request

from ....accounts.records import StoredKey
from ....accounts.service import blocking
from ....errors import NotFound
from ....web.observability import Record
from ....web.services import Services
from ....web.spine import json_route
from .. import keys
from .common import administered, blueprint, json_body, opened

NEW = StoredKey(id="", digest="", shown="")


@json_route(blueprint, "POST", "/key/generate", body="GenerateKeyRequest")
def generate_key(services: Services, record: Record) -> Any:
    """Make an API key; for administrators."""
    accounts = administered(services, record).keys
    asked = keys.parse_new(json_body(services))
    return keys.made(*accounts.make(asked.edit(NEW, time.time()), record.key))


@json_route(blueprint, "GET", "/key/info", group="")
def key_info(services: Services, record: Record) -> Any:
    """One API key; without `key`, the caller's own."""
    name = request.args.get("key", "")
    accounts = administered(services, record) if name else opened(services)
    name = name or record.key
    if services.keys.is_configured(name):
        raise NotFound(
            "this API key is one of the settings: only keys of /key/generate have more to read",
            param="key",
        )
    return {"key": name, "info": keys.key_object(accounts.keys.read(name))}


@json_route(blueprint, "GET", "/key/list")
def list_keys(services: Services, record: Record) -> Any:
    """The API keys in the store; for administrators."""
    accounts = administered(services, record).keys
    page = keys.parse_list(request.args)
    offset = (page.number - 1) * page.size
    count, found = accounts.listed(page.wanted, offset, page.size, search=page.search)
    return keys.listed(page, count, found)


@json_route(blueprint, "POST", "/key/update", body="UpdateKeyRequest")
def update_key(services: Services, record: Record) -> Any:
    """Change an API key; for administrators."""
    accounts = administered(services, record).keys
    name, asked = keys.parse_update(json_body(services))
    edit, finish = partial(asked.edit, now=time.time()), asked.finish_running
    key = accounts.change(name, edit, record.key, finish_running=finish)
    return {"key": name, **keys.key_object(key)}


@json_route(blueprint, "POST", "/key/regenerate", body="RegenerateKeyRequest")
def regenerate_key(services: Services, record: Record) -> Any:
    """A new secret for an API key; for administrators.

    The key keeps its id and data."""
    return _regenerate(services, record)


@json_route(blueprint, "POST", "/key/<name>/regenerate", body="RegenerateNamedKey")
def regenerate_named(services: Services, record: Record, name: str) -> Any:
    """The same, with the key in the path."""
    return _regenerate(services, record, name)


def _regenerate(services: Services, record: Record, key: str | None = None) -> Any:
    accounts = administered(services, record).keys
    name, asked, grace = keys.parse_regenerate(json_body(services), key)
    edit = partial(asked.edit, now=time.time())
    secret, made = accounts.regenerate(name, edit, grace, record.key)
    # A session has only the key's id, so it would outlast the secret that began it.
    if services.sessions is not None:
        services.sessions.end_all(made.id)
    return keys.made(secret, made)


@json_route(blueprint, "POST", "/key/block", body="BlockKeyRequest")
def block_key(services: Services, record: Record) -> Any:
    """Block an API key; for administrators."""
    return _block(services, record, blocked=True)


@json_route(blueprint, "POST", "/key/unblock", body="BlockKeyRequest")
def unblock_key(services: Services, record: Record) -> Any:
    """Unblock an API key; for administrators."""
    return _block(services, record, blocked=False)


def _block(services: Services, record: Record, *, blocked: bool) -> Any:
    accounts = administered(services, record).keys
    name, finish = keys.parse_key(json_body(services))
    action = "block" if blocked else "unblock"
    return keys.key_object(
        accounts.change(name, blocking(blocked), record.key, action, finish_running=finish)
    )


@json_route(blueprint, "POST", "/key/delete", body="DeleteKeysRequest")
def delete_keys(services: Services, record: Record) -> Any:
    """Delete API keys; for administrators.

    All of the named keys, or none if one of them is missing."""
    accounts = administered(services, record).keys
    names, aliases, finish = keys.parse_delete(json_body(services))
    gone = accounts.delete(names, aliases, record.key, finish_running=finish)
    return {"deleted_keys": gone}
