"""The keys of the store that this process knows, so that a request seldom asks the database.

A thread asks twice a second for changes by other processes. If the database is away, known keys
stay valid and unknown ones raise StoreUnavailable.
"""

from __future__ import annotations

import hashlib
import re
import threading
import zlib
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from itertools import chain
from typing import NamedTuple, Protocol, TypeVar

from ..errors import StoreUnavailable
from ..runtime.keep_alive import WhileNeeded
from ..runtime.locks import native_lock
from .records import Bound, Identity, User, of_person

# The text of API keys that the gateway makes: `sk-`, 27 random characters, 6 of a checksum.
#
# The random part has 160 bits, so it cannot be guessed, whatever is known of its digest. The
# checksum is the CRC-32 of that part: a mistyped or made-up key is refused without a look into
# the database. Both parts are written in base 62, like GitHub's tokens.
SECRET_PREFIX = "sk-"
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
RANDOM, CHECK = 27, 6  # characters
SECRET_BYTES = 20  # of randomness: 160 bits
_ANYWHERE = re.compile(f"{SECRET_PREFIX}[0-9A-Za-z]{{{RANDOM + CHECK},}}")
_FORM = re.compile(f"{SECRET_PREFIX}([0-9A-Za-z]{{{RANDOM}}})([0-9A-Za-z]{{{CHECK}}})")


def make_secret(randomness: bytes) -> str:
    """The key with this randomness, of SECRET_BYTES bytes."""
    body = _base62(int.from_bytes(randomness, "big"), RANDOM)
    return SECRET_PREFIX + body + _checksum(body)


def is_well_formed(text: str) -> bool:
    """Whether the text may be a key of a gateway's store: right in form and checksum."""
    match = _FORM.fullmatch(text)
    return match is not None and _checksum(match[1]) == match[2]


def key_digest(text: str, secret: bytes) -> str:
    """The digest of a key, made with the secret of the store: 64 hexadecimal digits."""
    return blake2b(text.encode(), digest_size=32, key=secret, person=b"slotproxy key").hexdigest()


def shown_secret(text: str) -> str:
    """The key as lists show it: its last four characters, as LiteLLM does."""
    return f"{SECRET_PREFIX}...{text[-4:]}"


def without_keys(text: str) -> str:
    """The text with `sk-...` in place of everything in the form of a key."""
    return _ANYWHERE.sub(f"{SECRET_PREFIX}...", text) if SECRET_PREFIX in text else text


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), CHECK)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, len(DIGITS))
        digits.append(DIGITS[digit])
    return "".join(reversed(digits))


K = TypeVar("K")
V = TypeVar("V")
MOST_KNOWN = 131_072  # secrets that are kept; then those that were found first are forgotten
MOST_NAMED = 16_384  # people, and names of those who could not be made users
_NOT_ASKED = Identity(key="")  # in place of an answer of the store
INTERVAL = 0.5  # seconds between two questions for changes
AT_ONCE = 1000  # changes that are read together


class Change(NamedTuple):
    number: int
    kind: str
    subject: str


class KeyStore(Protocol):
    """The store of keys. All methods raise StoreUnavailable."""

    def secret(self) -> bytes:
        """The secret that digests are made with."""

    def find(self, digest: str) -> Identity | None: ...

    def find_id(self, key_id: str) -> Identity | None: ...

    def person(self, who: User, key: str) -> tuple[str, Bound] | None:
        """The id and rights of this user, who is made if this trusted key may make one more."""

    def newest(self) -> int:
        """The number of the last change."""

    def changes(self, since: int, most: int) -> Sequence[Change]:
        """The changes after that number, in order."""


class KeyCache:
    """The known keys of a store. `watch` False starts no thread: others call `follow`."""

    def __init__(self, store: KeyStore, *, watch: bool = True) -> None:
        self._store = store
        self._lock = native_lock()
        self._following = threading.Lock()
        self._seen: int | None = None  # the last change that was followed
        self._secret = b""
        self._known: dict[bytes, Identity] = {}  # by the digest of the secret
        self._ids: dict[str, Identity | None] = {}
        # By key and name of the person: the identity of the key, and what it became.
        self._people: dict[tuple[str, str], tuple[Identity, Identity]] = {}
        self._watched = watch
        self._watching = WhileNeeded(
            "following changes of API keys", INTERVAL, lambda: self._watched, self._turn
        )

    def known(self, secret: str) -> Identity | None:
        """The identity of a key that this process has found before."""
        return self._known.get(quick_digest(secret))

    def find(self, secret: str) -> Identity | None:
        """The identity of a key; None if there is no such key. Raises StoreUnavailable."""
        if not is_well_formed(secret):
            return None
        seen = self._begun()
        identity = self._store.find(key_digest(secret, self._secret))
        if identity is not None:
            self._keep(self._known, quick_digest(secret), identity, seen, MOST_KNOWN)
        return identity

    def named(self, key_id: str) -> Identity | None:
        """The identity of the key with this id; None if there is none. Raises StoreUnavailable."""
        identity = self._ids.get(key_id, _NOT_ASKED)  # one access: a thread removes entries
        if identity is not _NOT_ASKED:
            return identity
        seen = self._begun()
        identity = self._store.find_id(key_id)
        self._keep(self._ids, key_id, identity, seen, MOST_KNOWN)
        return identity

    def person(self, key: Identity, who: User) -> Identity:
        """The identity of a request by this key for this person; that of the key if it may make no
        more users. Raises StoreUnavailable."""
        name = key.key, who.id
        before, identity = self._people.get(name, (None, key))
        if before == key:
            return identity
        seen = self._begun()
        user = self._store.person(who, key.key)
        identity = key if user is None else of_person(key, *user)
        self._keep(self._people, name, (key, identity), seen, MOST_NAMED)
        return identity

    def follow(self) -> None:
        """Forget what has changed since the last call. Raises StoreUnavailable."""
        with self._following:
            while self._seen is not None:
                changes = self._store.changes(self._seen, AT_ONCE)
                if changes:
                    self._forget(changes)
                if len(changes) < AT_ONCE:
                    return

    def close(self) -> None:
        self._watched = False

    def _begun(self) -> int | None:
        """Begin to follow changes with the first question. Returns the last change followed."""
        if self._seen is None:
            with self._following:
                if self._seen is None:
                    self._secret = self._store.secret()
                    self._seen = self._store.newest()
                    if self._watched:
                        self._watching.start()
        return self._seen

    def _keep(self, cache: dict[K, V], name: K, value: V, seen: int | None, most: int) -> None:
        """Keep what was read after this change, unless it may have changed since."""
        with self._lock:
            if seen == self._seen:
                while len(cache) >= most:
                    del cache[next(iter(cache))]
                cache[name] = value

    def _forget(self, changes: Sequence[Change]) -> None:
        with self._lock:
            self._seen = changes[-1].number
            keys = self._changed(changes)
            for digest in [d for d, identity in self._known.items() if identity.key in keys]:
                del self._known[digest]
            for key_id in keys:
                self._ids.pop(key_id, None)
            if any(change.kind == "user" for change in changes):
                self._people.clear()

    def _changed(self, changes: Sequence[Change]) -> set[str]:
        """The ids of the keys that these changes concern."""
        keys = {change.subject for change in changes if change.kind == "key"}
        groups = {(change.kind, change.subject) for change in changes if change.kind != "key"}
        if groups:  # one pass over all known keys for all of them
            for identity in chain(self._known.values(), self._ids.values()):
                if identity is not None and (
                    ("user", identity.user) in groups or ("team", identity.team) in groups
                ):
                    keys.add(identity.key)
        return keys

    def _turn(self) -> None:
        with suppress(StoreUnavailable):  # it was logged; known keys go on
            self.follow()


def quick_digest(secret: str) -> bytes:
    """That by which a process finds the keys that it knows."""
    return hashlib.blake2s(secret.encode("utf-8", "surrogateescape")).digest()
