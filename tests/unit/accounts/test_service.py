"""Keys made, changed and deleted."""

from __future__ import annotations

import math

import pytest

from proxy.accounts.key_cache import KeyCache, is_well_formed
from proxy.accounts.records import KEY_ID, StoredKey, identity_of
from proxy.accounts.service import KeyService, blocking
from proxy.errors import NotFound

from .stores import MemoryKeys

NEW = StoredKey(id="", digest="", shown="", alias="laptop")


def _service() -> tuple[KeyService, KeyCache, MemoryKeys]:
    store = MemoryKeys()
    cache = KeyCache(store, watch=False)
    return KeyService(store, cache, clock=lambda: 100.0), cache, store


def test_made_key_is_accepted_and_its_secret_is_not_stored() -> None:
    service, cache, store = _service()
    secret, key = service.make(NEW, "ops")
    assert is_well_formed(secret)
    assert KEY_ID.fullmatch(key.id)
    assert (key.alias, key.created, key.created_by) == ("laptop", 100.0, "ops")
    assert cache.find(secret).key == key.id
    assert secret not in repr(store.keys)


def test_key_is_named_by_secret_digest_or_id() -> None:
    service, _, _ = _service()
    secret, key = service.make(NEW, "ops")
    assert service.read(secret) == service.read(key.digest) == service.read(key.id) == key


def test_change_counts_at_once() -> None:
    service, cache, _ = _service()
    secret, key = service.make(NEW, "ops")
    cache.find(secret)
    service.change(key.id, blocking(True), "ops", "block")
    assert cache.find(secret).refused
    service.change(secret, blocking(False), "ops", "unblock")
    assert not cache.find(secret).refused
    assert service.delete([secret], [], "ops") == [key.digest]
    assert cache.known(secret) is cache.find(secret) is None
    with pytest.raises(NotFound):
        service.read(secret)


def test_former_secret_ends_with_its_grace_time_or_the_key() -> None:
    key = StoredKey(id="k", digest="new", shown="", former_digest="old", former_until=50.0)
    assert identity_of(key, "new").until == math.inf
    assert identity_of(key, "old").until == 50.0
    ending = StoredKey(
        id="k", digest="new", shown="", expires=20.0, former_digest="old", former_until=50.0
    )
    assert identity_of(ending, "new").until == identity_of(ending, "old").until == 20.0


def test_regenerated_key_keeps_its_id_and_its_former_secret_for_a_time() -> None:
    service, cache, _ = _service()
    old, key = service.make(NEW, "ops")
    new, renewed = service.regenerate(key.id, lambda known: known, 50.0, "ops")
    assert (renewed.id, renewed.alias, renewed.shown) == (key.id, "laptop", f"sk-...{new[-4:]}")
    assert cache.find(new).until == math.inf
    assert (cache.find(old).key, cache.find(old).until) == (key.id, 150.0)
    newest, _ = service.regenerate(new, lambda known: known, 0.0, "ops")
    assert cache.find(old) is cache.find(new) is None
    assert cache.find(newest).key == key.id
