"""API keys in a database."""

from __future__ import annotations

import logging

import pytest
from msgspec.structs import replace
from sqlalchemy import select

from proxy.accounts.key_cache import KeyCache, is_well_formed
from proxy.accounts.records import KEY_ID, StoredKey, blocking, identity_of
from proxy.errors import BadRequest
from proxy.store.api_keys import ApiKeys
from proxy.store.database import Database
from proxy.store.tables import API_KEY
from tests.fakes import at_once


def _key(number: int, **fields: object) -> StoredKey:
    return StoredKey(
        id=f"key_{number:024x}",
        digest=f"{number:064x}",
        shown="sk-...0000",
        created=float(number),
        **fields,  # type: ignore[arg-type]
    )


def _audited(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [r for r in caplog.records if r.name == "slotproxy.audit"]  # others may log, too


def test_alias_is_unique_until_its_key_is_deleted(database: Database) -> None:
    keys = ApiKeys(database)
    keys.add(_key(1, alias="a"), "ops")
    keys.add(_key(2), "ops")
    with pytest.raises(BadRequest, match="in use"):
        keys.add(_key(3, alias="a"), "ops")
    with pytest.raises(BadRequest, match="in use"):
        keys.change(_key(2).id, lambda key: replace(key, alias="a"), "ops", "update")
    keys.delete([], ["a"], "ops")
    keys.add(_key(3, alias="a"), "ops")
    assert keys.listed({"alias": "a"}, 0, 10) == (1, [_key(3, alias="a")])


def test_made_key_is_accepted_and_changes_count_at_once(database: Database) -> None:
    keys = ApiKeys(database)
    cache = KeyCache(keys, watch=False)
    secret, key = keys.make(replace(_key(0), id="", alias="laptop"), "ops")
    assert is_well_formed(secret)
    assert KEY_ID.fullmatch(key.id)
    assert (key.alias, key.created_by) == ("laptop", "ops")
    assert secret not in repr(database.rows(select(API_KEY)))
    assert keys.read(secret) == keys.read(key.digest) == keys.read(key.id) == key
    assert cache.find(secret).key == key.id
    keys.change(secret, blocking(True), "ops", "block")
    cache.follow()
    assert cache.find(secret).refused
    assert keys.delete([secret], [], "ops") == [key.digest]
    cache.follow()
    assert cache.known(secret) is cache.find(secret) is None


def test_former_secret_does_not_outlast_its_key() -> None:
    key = replace(_key(1), expires=20.0, former_digest="old", former_until=50.0)
    assert identity_of(key, key.digest).until == identity_of(key, "old").until == 20.0


def test_changes_are_recorded_without_secrets(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "slotproxy.audit")
    keys = ApiKeys(database)
    keys.add(_key(1, alias="a", metadata={"note": "private"}), "ops")
    keys.change(_key(1).id, blocking(True), "root", "block")
    keys.delete([_key(1).id], [], "ops")
    entries = ApiKeys(database).entries("", None, 10)
    assert [(entry.number, entry.actor, entry.action, entry.subject) for entry in entries] == [
        (3, "ops", "delete", _key(1).id),
        (2, "root", "block", _key(1).id),
        (1, "ops", "create", _key(1).id),
    ]
    assert entries[1].details == {"blocked": [False, True]}
    assert [change.number for change in keys.changes(1, 10)] == [2, 3]
    assert keys.newest() == 3
    assert len(_audited(caplog)) == 3
    recorded = caplog.text + repr(entries)
    assert "private" not in recorded
    assert _key(1).digest not in recorded


def test_numbers_of_simultaneous_changes_have_no_gap(database: Database, url: str) -> None:
    databases = [Database(url) for _ in range(3)]

    def add(worker: int) -> None:
        for number in range(5):
            ApiKeys(databases[worker]).add(_key(100 * worker + number), "ops")

    at_once(add, 3)
    assert [change.number for change in ApiKeys(database).changes(0, 100)] == list(range(1, 16))
    for other in databases:
        other.close()
