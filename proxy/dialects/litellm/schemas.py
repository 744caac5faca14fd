"""JSON schemas of the bodies of LiteLLM's management API, as `dialects.schemas`."""

from __future__ import annotations

from ...accounts.rights import PRIORITIES
from ..schema_fields import Schema, body, flag, mapping, strings, text
from .rights import TYPES

RIGHTS: dict[str, Schema] = {
    "models": strings("Names of models, or patterns with `*`; empty for all.", "qwen*"),
    "allowed_routes": strings(
        "Groups of routes, or paths, also with `*`; empty for all.", "chat", "/v1/models"
    ),
    "key_type": text("Sets the routes of a kind of key.", "llm_api", enum=list(TYPES)),
    "allowed_ips": strings("Addresses and networks of clients; empty for all.", "10.0.0.0/8"),
    "read_only": flag("Allow GET requests only."),
    "priority": text("The highest class in the queue.", "low", enum=["", *PRIORITIES]),
    "group": text("Keys of one group share cached prompts.", "research"),
}
_KEY: dict[str, Schema] = {
    "key_alias": text("A name for people, which no other key has.", "alice-laptop"),
    "duration": text("When the key expires: a number and s, m, h, d, w or mo.", "30d"),
    "metadata": mapping("Anything, up to 16 KiB of JSON; returned as it is.", {"laptop": 1}),
    "blocked": flag("Refuse the key until it is unblocked."),
    "admin": flag("Let the key do what the keys of `--admins` may."),
    **RIGHTS,
}
_NAME = text("The key, its `token` or its `key_id`.", "key_0123456789abcdef01234567")
BODIES: dict[str, Schema] = {
    "GenerateKeyRequest": body(**_KEY),
    "UpdateKeyRequest": body("key", key=_NAME, **_KEY),
    "BlockKeyRequest": body("key", key=_NAME),
    "DeleteKeysRequest": body(
        keys=strings("Keys, or their `token` or `key_id`.", "key_0123456789abcdef01234567"),
        key_aliases=strings("Aliases of keys.", "alice-laptop"),
    ),
}
