"""API keys: accepted keys and the checks of a request.

A key is looked up by its BLAKE2s digest, so the time of the lookup reveals nothing about the
secret. The digest found is then compared in constant time. Keys are never shown or logged.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import Unauthorized
from .guesses import Guesses

# environ key with the name of the API key the user signed in with. Only the pages set it; names of
# client headers begin with HTTP_ in environ.
SIGNED_IN = "slotproxy.signed_in"


class Keys:
    """The accepted API keys, given as pairs (name, secret). Without any, everybody may call."""

    def __init__(self, keys: Iterable[tuple[str, str]], wrong: int = 0) -> None:
        """`wrong`: how many invalid keys an address may send per minute; 0 means no limit."""
        self._guesses = Guesses(wrong)
        digests = ((_digest(secret), name) for name, secret in keys)
        self._known = {digest: (digest, name) for digest, name in digests}

    @property
    def needed(self) -> bool:
        """Whether callers need an API key."""
        return bool(self._known)

    def check(self, environ: Mapping[str, Any]) -> str:
        """Return the name of the caller's key, or "" if no key is needed. Raises Unauthorized or
        TooManyWrongKeys."""
        if not self._known:
            return ""
        presented = _presented(environ)
        if presented:
            return self.name_of(presented, environ.get("REMOTE_ADDR", ""))
        signed_in = environ.get(SIGNED_IN)
        if isinstance(signed_in, str):
            return signed_in
        raise Unauthorized("missing API key: send it as Authorization: Bearer KEY")

    def has_key(self, environ: Mapping[str, Any]) -> bool:
        """Whether the request headers contain a valid key (any key, if none is needed). Raises
        TooManyWrongKeys."""
        presented = _presented(environ)
        if not presented or not self._known:
            return bool(presented)
        try:
            return bool(self.name_of(presented, environ.get("REMOTE_ADDR", "")))
        except Unauthorized:
            return False

    def name_of(self, secret: str, peer: str) -> str:
        """Return the name of a key sent from the address `peer`. Raises Unauthorized or
        TooManyWrongKeys."""
        digest = _digest(secret)
        known = self._known.get(digest)
        if known is None or not hmac.compare_digest(known[0], digest):
            self._guesses.count_wrong(peer)
            raise Unauthorized("invalid API key")
        name = known[1]
        if (peer, name) not in self._guesses.seen:
            self._guesses.count_right(peer, name)
        return name


def _digest(secret: str) -> bytes:
    return hashlib.blake2s(secret.encode("utf-8", "surrogateescape")).digest()


def _presented(environ: Mapping[str, object]) -> str:
    """Read the key from `Authorization: Bearer`, or from `x-api-key` as Anthropic's clients send
    it."""
    header = environ.get("HTTP_AUTHORIZATION")
    if isinstance(header, str):
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "bearer":
            return value.strip()
    key = environ.get("HTTP_X_API_KEY")
    return key.strip() if isinstance(key, str) else ""
