"""Saves, restores and erases slots by hand, for administrators."""

from __future__ import annotations

from typing import cast, get_args

from ..backends.driver import SlotAction
from ..backends.registry import Registry
from ..errors import BadRequest, NoBackend, Unsupported


def act(registry: Registry, name: str, action: str, slot: int, file: str) -> tuple[int, int]:
    """Save a slot of a backend to a file of its server, restore it from there, or erase it.

    Returns the number of tokens and bytes moved. Raises BadRequest, Unsupported, NoBackend and the
    driver's errors."""
    if action not in get_args(SlotAction):
        raise BadRequest(f"action must be one of {', '.join(get_args(SlotAction))}", param="action")
    backend = registry.backends.get(name)
    if backend is None or not backend.up or backend.caps is None:
        raise NoBackend("the backend is down")
    if not backend.caps.slot_save:
        raise Unsupported("the backend cannot save slots: start it with --slot-save-path")
    return backend.driver.slot_action(cast(SlotAction, action), slot, file)
