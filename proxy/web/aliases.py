"""Aliases that hide backend addresses and conversation digests from ordinary callers.

A backend without a configured name is named after its host and port, so it is shown as `backend-1`,
`backend-2`, … Conversation digests are salted, so that nobody can test whether a slot holds a
guessed text.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from hashlib import blake2s
from urllib.parse import urlsplit

from ..runtime.locks import native_lock

DIGITS = 12  # hex digits shown


class Aliases:
    """Derives the salt from `secrets`, which all workers that share a table know and clients do
    not, so that all workers show the same digests. Without secrets, each process uses a random
    salt."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        shared = "\0".join(secrets)
        self._salt = blake2s(shared.encode()).digest() if shared else os.urandom(32)
        self._names: dict[str, str] = {}
        self._lock = native_lock()

    def digest(self, conversation: str) -> str:
        made = blake2s(conversation.encode(), key=self._salt, person=b"slots")
        return made.hexdigest()[:DIGITS]

    def known(self, name: str) -> str:
        """Return the name shown for a backend, "" if it has none yet."""
        return self._names.get(name, "")

    def name(self, name: str, address: str) -> str:
        """Return the name shown for a backend; `address` is "" if the backend no longer exists."""
        with self._lock:
            shown = self._names.get(name)
            if shown is None:
                host = urlsplit(address).netloc
                named = bool(address) and (not host or host not in name)
                numbered = sum(one.startswith("backend-") for one in self._names.values())
                shown = self._names[name] = name if named else f"backend-{numbered + 1}"
            return shown
