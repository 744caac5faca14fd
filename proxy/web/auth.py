"""Who may call: API keys, compared in constant time and never shown.

A key is looked up by its BLAKE2s digest, so the time of a look-up tells nothing about the secret;
the digest found is compared in constant time once more.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import Unauthorized
from .guesses import Guesses

# In environ: the name of the key somebody signed in with, put there by the pages alone. (What a
# client sends begins with HTTP_ there.)
SIGNED_IN = "slotproxy.signed_in"
UNKNOWN = "the API key is not known here"


class Keys:
    """The accepted keys; with none, everybody may call. `keys` are pairs (name, secret)."""

    def __init__(self, keys: Iterable[tuple[str, str]], wrong: int = 0) -> None:
        """`wrong`: how many keys that are none an address may show in a minute; 0: any number."""
        self._guesses = Guesses(wrong)
        digests = ((_digest(secret), name) for name, secret in keys)
        self._known = {digest: (digest, name) for digest, name in digests}

    @property
    def needed(self) -> bool:
        """Whether there are any."""
        return bool(self._known)

    def check(self, environ: Mapping[str, Any]) -> str:
        """The name of the caller's key, "" where none is needed. Raises Unauthorized,
        TooManyWrongKeys."""
        if not self._known:
            return ""
        presented = _presented(environ)
        if presented:
            return self.judge(presented, environ.get("REMOTE_ADDR", ""))
        signed_in = environ.get(SIGNED_IN)
        if isinstance(signed_in, str):
            return signed_in
        raise Unauthorized("no API key was sent: use Authorization: Bearer KEY")

    def shows(self, environ: Mapping[str, Any]) -> bool:
        """Whether the headers themselves show a right key; where none is needed, any is. Raises
        TooManyWrongKeys."""
        presented = _presented(environ)
        if not presented or not self._known:
            return bool(presented)
        try:
            return bool(self.judge(presented, environ.get("REMOTE_ADDR", "")))
        except Unauthorized:
            return False

    def judge(self, secret: str, peer: str) -> str:
        """As `name`, for a key that came from this address. Raises TooManyWrongKeys too."""
        digest = _digest(secret)
        known = self._known.get(digest)
        if known is None or not hmac.compare_digest(known[0], digest):
            self._guesses.wrong(peer)
            raise Unauthorized(UNKNOWN)
        name = known[1]
        if (peer, name) not in self._guesses.seen:
            self._guesses.right(peer, name)
        return name

    def name(self, secret: str) -> str:
        """The name of this key. Raises Unauthorized."""
        digest = _digest(secret)
        known = self._known.get(digest)
        if known is not None and hmac.compare_digest(known[0], digest):
            return known[1]
        raise Unauthorized(UNKNOWN)


def _digest(secret: str) -> bytes:
    return hashlib.blake2s(secret.encode("utf-8", "surrogateescape")).digest()


def _presented(environ: Mapping[str, object]) -> str:
    """Authorization: Bearer, or x-api-key as Anthropic's clients send it."""
    header = environ.get("HTTP_AUTHORIZATION")
    if isinstance(header, str):
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "bearer":
            return value.strip()
    key = environ.get("HTTP_X_API_KEY")
    return key.strip() if isinstance(key, str) else ""
