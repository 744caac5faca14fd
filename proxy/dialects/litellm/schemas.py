"""JSON schemas of the bodies of LiteLLM's management API, as `dialects.schemas`."""

from __future__ import annotations

from ..schema_fields import Schema, body, flag, mapping, strings, text

_KEY: dict[str, Schema] = {
    "key_alias": text("A name for people, which no other key has.", "alice-laptop"),
    "duration": text("When the key expires: a number and s, m, h, d, w or mo.", "30d"),
    "metadata": mapping("Anything, up to 16 KiB of JSON; returned as it is.", {"laptop": 1}),
    "blocked": flag("Refuse the key until it is unblocked."),
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
