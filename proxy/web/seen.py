"""What a caller may see of backends and slots: admins see addresses, other callers see aliases."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ..errors import Forbidden
from ..gateway import Caller, SlotView, View
from .services import Services


def is_admin(services: Services, key: str) -> bool:
    """Whether the key of this name may see everything. Without keys, everybody may."""
    return services.keys.is_admin(key)


def check_admin(services: Services, key: str) -> None:
    """Raises Forbidden."""
    if not is_admin(services, key):
        raise Forbidden(
            "this requires an admin API key: use one of the setting admins, or ask an administrator"
            " for one"
        )


def names(services: Services, key: str) -> Callable[[str], str]:
    """Return a function that gives a backend's name as shown to this key."""
    if is_admin(services, key):
        return str
    backends = services.gateway.registry.backends
    for one in backends.values():  # in configuration order
        services.aliases.name(one.name, one.url)

    def shown(name: str) -> str:
        known = backends.get(name)
        return services.aliases.name(name, known.url if known else "")

    return shown


def name(services: Services, key: str, backend: str) -> str:
    """Return the name of one backend as shown to this key."""
    if is_admin(services, key):
        return backend
    return services.aliases.known(backend) or names(services, key)(backend)


def view(services: Services, caller: Caller) -> View:
    """Return the scheduler's view as shown to this caller."""
    shown = names(services, caller.key)
    everything = services.gateway.scheduler.view(caller.group, caller.key)

    def salted(slot: SlotView) -> SlotView:
        if slot.conversation is None:
            return slot
        return msgspec.structs.replace(
            slot, conversation=services.aliases.digest(slot.conversation)
        )

    backends = [
        msgspec.structs.replace(
            one, backend=shown(one.backend), slots=[salted(slot) for slot in one.slots]
        )
        for one in everything.backends
    ]
    return msgspec.structs.replace(everything, backends=backends)
