"""Maps a request to its caller: key, cache group, priority class and scheduling headers.

`X-Slotproxy-Priority` may lower a request's class, but never raise it. `X-Slotproxy-Job: side`
marks a side job. `X-Slotproxy-Queue: on` asks for comments with the queue place.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any

import msgspec

from ..accounts.limiting.allowance import Allowance, LimitService, LimitStatus, limit_statuses
from ..accounts.records import Identity
from ..accounts.rights import Permissions
from ..errors import BadRequest, KeyEnded, StoreUnavailable, Unauthorized
from ..gateway import Caller
from ..gateway.context import ANYBODY
from ..runtime.keep_alive import WhileNeeded
from .auth import BATCH, IDENTITY, Keys
from .observability import Observer, Record

# Ends the running requests of API keys that are no longer accepted.
#
# A key may be blocked, deleted or expire, here or in another worker, or vanish from the key file.
# All of that is asked in one way: several times a second, for each key with running requests,
# whether a new request would be accepted. The answer comes from memory (see `accounts.key_cache`).
INTERVAL = 0.25  # seconds between two looks; other workers know of a change after half a second
GONE = "this API key was deleted"


class KeyWatch:
    """`start` begins a thread that looks."""

    def __init__(self, keys: Keys, observer: Observer) -> None:
        self._keys = keys
        self._observer = observer
        self._closed = False
        self.start = WhileNeeded(
            "looking for refused API keys", INTERVAL, lambda: not self._closed, self.look
        ).start

    def close(self) -> None:
        self._closed = True

    def look(self) -> None:
        for key in self._observer.running_keys() if self._keys.needed else ():
            try:
                self._keys.named(key, GONE)
            except Unauthorized as error:
                reason = f"the gateway has ended this request: {error.message}"
                self._observer.end(key, partial(KeyEnded, reason))
            except StoreUnavailable:
                pass  # known keys go on


SHARES = {"high": 4.0, "normal": 1.0, "low": 0.25}
# What changes a caller for one request.
_UNKNOWN: tuple[Identity | None, Caller | None] = None, None
_WISHES = (BATCH, *(f"HTTP_X_SLOTPROXY_{name}" for name in ("PRIORITY", "JOB", "QUEUE")))


class Callers:
    def __init__(self, keys: Iterable[Identity], *, limits: LimitService | None = None) -> None:
        """`limits` are needed for keys of the store, and for those with limits of their own."""
        self._limits = limits
        self.replace(keys)

    def replace(self, keys: Iterable[Identity]) -> None:
        """Know these keys of the settings instead of those before."""
        keys = tuple(keys)
        # Those without limits, by name: all requests of one have the same caller.
        self._known: dict[str, tuple[Identity | None, Caller | None]] = {
            key.key: (key, _caller(key)) for key in keys if not key.limits
        }
        # Without keys, all callers are the same and may ask for any class.
        self._most = 0.0 if keys else SHARES["high"]
        if not keys:
            self._known[""] = None, ANYBODY

    def caller(self, key: str, environ: MutableMapping[str, Any]) -> Caller:
        """The caller with this key; its allowance is in the record. Raises BadRequest."""
        identity: Identity | None = environ.get(IDENTITY)
        known, caller = self._known.get(key, _UNKNOWN)
        if identity is not None and identity is not known:
            caller = self._made(identity, environ)
        caller = caller or Caller(key=key)
        if environ.keys().isdisjoint(_WISHES):
            return caller
        if BATCH in environ:
            return msgspec.structs.replace(caller, share=SHARES["low"], background=True, idle=True)
        priority = environ.get("HTTP_X_SLOTPROXY_PRIORITY")
        job = environ.get("HTTP_X_SLOTPROXY_JOB")
        queue = environ.get("HTTP_X_SLOTPROXY_QUEUE")
        share = caller.share
        if priority:
            if priority.lower() not in SHARES:
                raise BadRequest("X-Slotproxy-Priority must be high, normal or low")
            share = min(SHARES[priority.lower()], max(share, self._most))
        return msgspec.structs.replace(
            caller,
            share=share,
            background=(job or "").lower() == "side",
            tell_place=(queue or "").lower() in ("on", "1", "true"),
        )

    def limit_statuses(self, environ: Mapping[str, Any]) -> Sequence[LimitStatus]:
        """How much of its limits the caller of a request has used. Raises LimitsUnavailable."""
        identity: Identity | None = environ.get(IDENTITY)
        if identity is None or self._limits is None:
            return ()
        return limit_statuses(self._limits, identity.limits, time.time_ns() // 1000)

    def _made(self, identity: Identity, environ: MutableMapping[str, Any]) -> Caller:
        if not identity.limits or self._limits is None:
            return _caller(identity)
        allowance = self._limits.allowance(identity.limits, idle=BATCH in environ)
        Record.of(environ).allowance = allowance
        return _caller(identity, allowance)


def _caller(identity: Identity, allowance: Allowance | None = None) -> Caller:
    return Caller(
        key=identity.key,
        user=identity.user,
        person=identity.person,
        team=identity.team,
        group=identity.group,
        share=SHARES[identity.priority],
        may=Permissions(identity.rights),
        allowance=allowance,
        on_overflow=identity.on_overflow,
    )
