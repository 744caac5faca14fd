"""What a caller may see of backends and slots.

Where keys are set, only admins see the addresses of backends: a backend without a name of its own,
which is called by its host and port, is `backend-1`, `backend-2`, … to all others. Digests of
conversations are salted, so that nobody can find out by trying whether a text that was guessed is
in a slot.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from hashlib import blake2s
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from ..gateway import Caller, SlotView, View
from ..locks import brief

if TYPE_CHECKING:
    from .services import Services

DIGITS = 12  # of a digest that is shown


class Seen:
    """`secrets` are known to all workers that share a table, and to no client: all of them show
    the same digests. Without any, the salt is a random number of the process."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        shared = "\0".join(secrets)
        self._salt = blake2s(shared.encode()).digest() if shared else os.urandom(32)
        self._names: dict[str, str] = {}
        self._lock = brief()

    def digest(self, conversation: str) -> str:
        made = blake2s(conversation.encode(), key=self._salt, person=b"slots")
        return made.hexdigest()[:DIGITS]

    def name(self, name: str, address: str) -> str:
        """What a backend is called where its address must not be seen; "" for the address of one
        that is not there any more."""
        with self._lock:
            shown = self._names.get(name)
            if shown is None:
                host = urlsplit(address).netloc
                named = bool(address) and (not host or host not in name)
                numbered = sum(one.startswith("backend-") for one in self._names.values())
                shown = self._names[name] = name if named else f"backend-{numbered + 1}"
            return shown


def is_admin(here: Services, key: str) -> bool:
    """Whether the key of this name may see all. Without keys, everybody may."""
    return not here.settings.keys or key in here.settings.admins


def names(here: Services, key: str) -> Callable[[str], str]:
    """What the backends are called for this key."""
    if is_admin(here, key):
        return str
    backends = here.gateway.registry.backends
    for one in backends.values():  # in their order
        here.seen.name(one.name, one.url)

    def shown(name: str) -> str:
        known = backends.get(name)
        return here.seen.name(name, known.url if known else "")

    return shown


def view(here: Services, caller: Caller) -> View:
    """The scheduler's records, as this caller may see them."""
    shown = names(here, caller.key)
    found = here.gateway.scheduler.view(caller.group, caller.key)

    def salted(slot: SlotView) -> SlotView:
        if slot.conversation is None:
            return slot
        return msgspec.structs.replace(slot, conversation=here.seen.digest(slot.conversation))

    backends = [
        msgspec.structs.replace(
            one, backend=shown(one.backend), slots=[salted(slot) for slot in one.slots]
        )
        for one in found.backends
    ]
    return msgspec.structs.replace(found, backends=backends)
