"""API keys: accepted keys and the checks of a request.

A key is looked up by its digest, so the time of the lookup reveals nothing about the secret, and
the digest found is compared in constant time. Keys are never shown or logged.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping
from functools import partial
from typing import Any, Literal

from ..accounts.key_cache import KeyCache, quick_digest
from ..accounts.records import KEY_ID, MOST_PEOPLE, Identity, User, of_person
from ..accounts.rights import Capture, Permissions
from ..errors import KeyBlocked, KeyExpired, StoreUnavailable, TooManyWrongKeys, Unauthorized
from ..runtime.locks import native_lock
from . import people
from .client_address import neighbourhood
from .observability import RECORD, Record
from .routes import Routes

# Limits invalid API keys by client address.
#
# Each address may send some invalid keys per minute. After that, its keys are refused without a
# check, so that a correct guess looks like a wrong one. A key that was valid from that address
# before still works. A client that shares its address with an attacker therefore has to wait some
# seconds, and only when it uses a key for the first time.
#
# Nothing blocks here: the error says when to retry.
MOST_ADDRESSES = 4096  # after that, the least recently counted address is forgotten
MOST_SEEN = 16_384  # pairs of address and valid key
MINUTE = 60.0


class WrongKeyLimiter:
    """Allows `most` invalid keys per minute and address (0: no limit)."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        # count, time of the last one
        self._wrong: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self.seen: dict[tuple[str, str], None] = {}
        self._lock = native_lock()

    def count_right(self, peer: str, name: str) -> None:
        """Count a valid key that is not in `seen` yet. Raises TooManyWrongKeys."""
        self.check(peer)
        with self._lock:
            while len(self.seen) >= MOST_SEEN:
                del self.seen[next(iter(self.seen))]
            self.seen[peer, name] = None

    def count_wrong(self, peer: str) -> None:
        """Count an invalid key. Raises TooManyWrongKeys."""
        if not self._most:
            return
        self.check(peer)
        network, now = neighbourhood(peer), self._clock()
        with self._lock:
            self._wrong[network] = self._count(network, now) + 1.0, now
            self._wrong.move_to_end(network)
            if len(self._wrong) > MOST_ADDRESSES:
                self._wrong.popitem(last=False)

    def check(self, peer: str) -> None:
        """Raises TooManyWrongKeys if the address has sent too many."""
        if not self._wrong:
            return
        count = self._count(neighbourhood(peer), self._clock())
        if count > self._most - 1:
            wait = (count - self._most + 1) * MINUTE / self._most
            raise TooManyWrongKeys(
                f"too many invalid API keys from your address: retry in {wait:.0f} seconds",
                retry_after=wait,
            )

    def _count(self, network: str, now: float) -> float:
        """How many invalid keys still count; it sinks steadily, to zero in a minute."""
        count, since = self._wrong.get(network, (0.0, now))
        return max(0.0, count - (now - since) * self._most / MINUTE)


# environ key with the name of the API key the user signed in with. Only the pages set it; names of
# client headers begin with HTTP_ in environ.
SIGNED_IN = "slotproxy.signed_in"
# environ key with the Identity of a key of the store, or of one that the settings bound.
IDENTITY = "slotproxy.identity"
# environ key of the person that the body of a request by a trusted key names.
PERSON = "slotproxy.person"
# environ key that marks a line of a batch. Its key's name is in SIGNED_IN.
BATCH = "slotproxy.batch"
GONE = "the API key of this session was deleted: sign in again"
GONE_OF_BATCH = "the API key that made this batch was deleted"
UNREAD = "the API keys of the settings cannot be read: ask the operator, whose log says why"
UNKNOWN = "unknown"  # group of what is in none, which few keys may use
_NO_KEY: tuple[bytes, Identity | None] = b"", None


class Keys:
    """The accepted API keys: those of the settings, given as pairs (secret, identity), and those of
    the store. Without pairs, everybody may call. `admins` are names of keys."""

    def __init__(
        self,
        keys: Iterable[tuple[str, Identity]],
        wrong: int = 0,
        admins: Collection[str] = (),
        stored: KeyCache | None = None,
    ) -> None:
        """`wrong`: the invalid keys an address may send per minute; 0 means no limit."""
        self.routes: Routes = {}  # once they are known
        self.wrong_keys = WrongKeyLimiter(wrong)
        self._admins = frozenset(admins)
        self._stored = stored
        self._people: dict[str, set[str]] = {}  # by key, without a store
        self.replace(keys)

    def replace(self, keys: Iterable[tuple[str, Identity]]) -> None:
        """Accept these keys of the settings from now on, instead of those before."""
        digests = ((quick_digest(secret), identity) for secret, identity in keys)
        self._known = {digest: (digest, identity) for digest, identity in digests}
        self._named = {identity.key: identity for _, identity in self._known.values()}
        self._suspended = False

    def suspend(self) -> None:
        """Refuse the keys of the settings until `replace`: they may no longer be valid."""
        self._suspended = True

    @property
    def needed(self) -> bool:
        """Whether callers need an API key."""
        return bool(self._known)

    def check(self, environ: MutableMapping[str, Any], secret: str | None = None) -> str:
        """Return the name of the caller's key, or "" if no key is needed; leave its identity in
        environ, and its user and team in the record. `secret` is a key that was sent in another way
        than headers say. Raises Unauthorized, Forbidden, TooManyWrongKeys or StoreUnavailable."""
        if not self._known:
            return ""
        presented = _presented(environ) if secret is None else secret
        if presented:
            caller = self._find(presented, environ.get("REMOTE_ADDR", ""))
        else:
            signed_in = environ.get(SIGNED_IN)
            if not isinstance(signed_in, str):
                raise Unauthorized("missing API key: send it as Authorization: Bearer KEY")
            caller = self.named(signed_in, GONE_OF_BATCH if BATCH in environ else GONE)
        if caller.trusted:
            caller = self._for_person(caller, environ, secret)
        environ[IDENTITY] = caller
        record = environ.get(RECORD) or Record.of(environ)
        record.user, record.team, record.alias = caller.user, caller.team, caller.alias
        if caller.rights:
            self._check_rights(caller, environ, record)
        return caller.key

    def _for_person(
        self, key: Identity, environ: MutableMapping[str, Any], secret: str | None
    ) -> Identity:
        """The identity for the person that the headers name, or the body once it is read."""
        who: User | None = people.of_headers(environ) or environ.get(PERSON)
        if who is None:
            environ[people.ON_BODY] = partial(self._on_body, secret)
            return key
        if self._stored is not None:
            return _accepted(self._stored.person(key, who))
        names = self._people.setdefault(key.key, set())
        if who.id not in names and len(names) >= MOST_PEOPLE:
            return key
        names.add(who.id)
        return of_person(key, who.id)

    def _on_body(
        self, secret: str | None, environ: MutableMapping[str, Any], body: Mapping[str, Any]
    ) -> None:
        environ[PERSON] = people.of_body(body)
        if environ[PERSON] is not None:
            self.check(environ, secret)

    def _check_rights(self, identity: Identity, environ: Mapping[str, Any], record: Record) -> None:
        may = Permissions(identity.rights)
        may.check_peer(environ.get("REMOTE_ADDR", ""))
        method = environ["REQUEST_METHOD"]
        served = self.routes.get((method, record.route))
        group, path = (served.group, served.path) if served else (UNKNOWN, "")
        # A WebSocket begins with a GET.
        reads = method in ("GET", "HEAD") and "HTTP_UPGRADE" not in environ
        may.check_route(group, path, reads=reads)

    def has_key(self, environ: Mapping[str, Any]) -> bool:
        """Whether the headers have a valid key. Raises TooManyWrongKeys, StoreUnavailable."""
        presented = _presented(environ)
        if not presented or not self._known:
            return bool(presented)
        try:
            return bool(self.name_of(presented, environ.get("REMOTE_ADDR", "")))
        except Unauthorized:
            return False

    def name_of(self, secret: str, peer: str) -> str:
        """The name of a key. Raises Unauthorized, TooManyWrongKeys, StoreUnavailable."""
        return self._find(secret, peer).key

    def is_valid(self, name: str) -> bool:
        """Whether the key of this name is accepted now. Raises StoreUnavailable."""
        try:
            self.named(name)
        except Unauthorized:
            return False
        return True

    def is_configured(self, name: str) -> bool:
        """Whether this is the name or the secret of a key of the settings."""
        return name in self._named or quick_digest(name) in self._known

    def is_admin(self, name: str) -> bool:
        """Whether this key may see and change everything. Without keys, everybody may."""
        if not self._known or name in self._admins:
            return True
        identity = self._identity(name)
        return identity is not None and identity.admin

    def is_given(self, name: str, right: Literal["share", "pull"]) -> bool:
        """Whether this key has a right that only administrators have by default."""
        if not self._known:
            return True
        if not self.is_valid(name):
            return False
        identity = self._identity(name)
        holders = identity.rights if identity is not None else ()
        return any(getattr(rights, right) for rights in holders) or self.is_admin(name)

    def capture(self, name: str, default: Capture) -> Capture:
        """Which requests of the key of this name are captured, by default those of `default`."""
        if not self._known:
            return default
        try:
            identity = self._identity(name)
        except StoreUnavailable:
            return "off"
        default = default if name else "off"
        if identity is None or not identity.rights:
            return default
        return next(filter(None, (held.capture for held in identity.rights)), default)

    def shown(self, name: str) -> str:
        """The key's name for people."""
        identity = self._identity(name)
        return name if identity is None else identity.shown

    def _find(self, secret: str, peer: str) -> Identity:
        digest = quick_digest(secret)
        known, identity = self._known.get(digest, _NO_KEY)
        if identity is not None and hmac.compare_digest(known, digest):
            if self._suspended:
                raise StoreUnavailable(UNREAD)
        else:
            identity = self._find_stored(secret, peer)
        if (peer, identity.key) not in self.wrong_keys.seen:
            self.wrong_keys.count_right(peer, identity.key)
        return identity if known else _accepted(identity)  # those of the settings always are

    def _find_stored(self, secret: str, peer: str) -> Identity:
        if self._stored is not None:
            identity = self._stored.known(secret)
            if identity is None:
                self.wrong_keys.check(peer)  # before the database is asked
                identity = self._stored.find(secret)
            if identity is not None:
                return identity
        self.wrong_keys.count_wrong(peer)
        raise Unauthorized("invalid API key")

    def named(self, name: str, gone: str = GONE) -> Identity:
        """As `_find`, by the name of a key. `gone` is the message if there is no such key. Raises
        Unauthorized if the key is not accepted now, and StoreUnavailable."""
        if self._suspended and name in self._named:
            raise StoreUnavailable(UNREAD)
        identity = self._identity(name)
        if identity is None:
            raise Unauthorized(gone)
        return _accepted(identity)

    def _identity(self, name: str) -> Identity | None:
        """That of the key of this name, accepted or not. Raises StoreUnavailable."""
        if name in self._named:
            return self._named[name]
        is_stored = self._stored is not None and KEY_ID.fullmatch(name)
        return self._stored.named(name) if self._stored and is_stored else None


def _accepted(identity: Identity) -> Identity:
    """Raises Unauthorized for a key that is not accepted now."""
    if identity.refused:
        raise KeyBlocked(identity.refused)
    if identity.until <= time.time():
        raise KeyExpired("this API key has expired: ask an administrator for a new one")
    return identity


def basic_password(environ: Mapping[str, Any]) -> str | None:
    """The password of a Basic authorization, as clients send it for http://any:KEY@host; "" if it
    cannot be read, None if there is no such authorization."""
    scheme, _, value = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(value, validate=True).decode("utf-8").partition(":")[2]
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""


def _presented(environ: Mapping[str, Any]) -> str:
    """The key of `Authorization: Bearer`, or of `x-api-key`, as Anthropic's clients send it."""
    scheme, _, value = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    key: str = value if scheme.lower() == "bearer" else environ.get("HTTP_X_API_KEY", "")
    return key.strip()
