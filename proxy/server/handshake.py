"""The handshake of a WebSocket (RFC 6455), apart from `websocket`, whose library is loaded late."""

from __future__ import annotations

import base64
import binascii
import hashlib

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
VERSION = "13"
# Codes of RFC 6455, 7.4.1.
NORMAL, LEAVING, NO_TEXT, TOO_MUCH, TOO_LONG = 1000, 1001, 1003, 1008, 1009


def accepted(key: str) -> str | None:
    """The `Sec-WebSocket-Accept` for a client's `Sec-WebSocket-Key`, None if that is no key."""
    try:
        if len(base64.b64decode(key, validate=True)) != 16:
            return None
    except (binascii.Error, ValueError):
        return None
    digest = hashlib.sha1(key.encode() + GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()
