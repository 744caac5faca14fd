"""Callers: group and class of a key, and request headers."""

from __future__ import annotations

import pytest

from proxy.accounts.records import Identity
from proxy.errors import BadRequest
from proxy.web.callers import Callers

KEYS = [
    Identity(key="ann", group="red", priority="high"),
    Identity(key="bob", group="blue"),
]


def test_key_has_its_group_and_class() -> None:
    callers = Callers(KEYS)
    ann, bob = callers.caller("ann", {}), callers.caller("bob", {})
    assert (ann.group, bob.group) == ("red", "blue")
    assert ann.share > bob.share
    assert not ann.background and not ann.tell_place


def test_header_lowers_but_never_raises_priority_class() -> None:
    callers = Callers(KEYS)
    normal = callers.caller("bob", {}).share
    header = {"HTTP_X_SLOTPROXY_PRIORITY": "high"}
    assert callers.caller("bob", header).share == normal
    assert callers.caller("bob", {"HTTP_X_SLOTPROXY_PRIORITY": "low"}).share < normal
    with pytest.raises(BadRequest):
        callers.caller("bob", {"HTTP_X_SLOTPROXY_PRIORITY": "urgent"})


def test_any_priority_class_is_allowed_without_keys() -> None:
    callers = Callers([])
    high = callers.caller("", {"HTTP_X_SLOTPROXY_PRIORITY": "high"}).share
    assert high > callers.caller("", {}).share


def test_headers_mark_side_jobs_and_request_queue_place() -> None:
    environ = {"HTTP_X_SLOTPROXY_JOB": "side", "HTTP_X_SLOTPROXY_QUEUE": "on"}
    caller = Callers(KEYS).caller("ann", environ)
    assert caller.background and caller.tell_place
