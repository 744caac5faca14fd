"""The keys that a process knows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from proxy.accounts import key_cache
from proxy.accounts.key_cache import SECRET_BYTES, Change, KeyCache, key_digest, make_secret
from proxy.accounts.records import NO_BOUND, Bound, Identity, StoredKey, User, identity_of
from proxy.errors import StoreUnavailable
from tests.fakes import wait_until


class MemoryKeys:
    """`reads` counts the questions for a key; while `away`, every call fails."""

    def __init__(self) -> None:
        self.keys: dict[str, StoredKey] = {}
        self.log: list[Change] = []
        self.reads = 0
        self.away = False
        self.on_find: Any = lambda: None

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable("away")

    def secret(self) -> bytes:
        self._check()
        return b"secret"

    def find(self, digest: str) -> Identity | None:
        self._check()
        self.reads += 1
        matches = [key for key in self.keys.values() if digest in (key.digest, key.former_digest)]
        self.on_find()
        return identity_of(matches[0], digest) if matches else None

    def find_id(self, key_id: str) -> Identity | None:
        self._check()
        self.reads += 1
        key = self.keys.get(key_id)
        return identity_of(key, key.digest) if key else None

    def person(self, who: User, key: str) -> tuple[str, Bound] | None:
        self._check()
        self.reads += 1
        return who.id, NO_BOUND

    def newest(self) -> int:
        self._check()
        return len(self.log)

    def changes(self, since: int, most: int) -> Sequence[Change]:
        self._check()
        return self.log[since : since + most]

    def note(self, subject: str, kind: str = "key") -> None:
        self.log.append(Change(len(self.log) + 1, kind, subject))

    def make(self, **values: Any) -> tuple[str, StoredKey]:
        """A new key, and its secret."""
        secret = make_secret(len(self.keys).to_bytes(SECRET_BYTES))
        key = StoredKey(
            id=f"key_{len(self.keys)}", digest=key_digest(secret, b"secret"), shown="", **values
        )
        self.keys[key.id] = key
        self.note(key.id)
        return secret, key

    def block(self, key_id: str) -> None:
        self.keys[key_id] = replace(self.keys[key_id], blocked=True)
        self.note(key_id)


def _with_key(**fields: Any) -> tuple[MemoryKeys, KeyCache, str, StoredKey]:
    store = MemoryKeys()
    cache = KeyCache(store, watch=False)
    secret, key = store.make(**fields)
    return store, cache, secret, key


def test_found_key_is_asked_for_once() -> None:
    store, cache, secret, key = _with_key()
    assert cache.known(secret) is None
    assert cache.find(secret) == cache.known(secret)
    assert cache.known(secret).key == key.id
    assert store.reads == 1


def test_mistyped_key_is_not_asked_for() -> None:
    store, cache, secret, _ = _with_key()
    assert cache.find(secret[:-1] + ("0" if secret[-1] != "0" else "1")) is None
    assert cache.find("sk-alice") is None
    assert store.reads == 0


def test_change_of_another_process_is_followed() -> None:
    store, cache, secret, key = _with_key()
    cache.find(secret)
    cache.named(key.id)
    store.block(key.id)
    assert not cache.known(secret).refused
    cache.follow()
    assert cache.known(secret) is None
    assert cache.find(secret).refused
    assert cache.named(key.id).refused


def test_change_while_a_key_is_read_is_not_missed() -> None:
    store, cache, secret, key = _with_key()
    cache.find(make_secret(b"?" * SECRET_BYTES))  # begins

    def blocked_meanwhile() -> None:
        store.on_find = lambda: None
        store.block(key.id)
        cache.follow()

    store.on_find = blocked_meanwhile
    cache.find(secret)
    assert cache.find(secret).refused


@pytest.mark.parametrize(("kind", "subject"), [("user", "u1"), ("team", "t1")])
def test_change_of_user_or_team_forgets_their_keys(kind: str, subject: str) -> None:
    store, cache, secret, key = _with_key(user_id="u1", team_id="t1")
    cache.find(secret)
    cache.named(key.id)
    store.note("another", kind)
    cache.follow()
    assert cache.known(secret) is not None
    store.note(subject, kind)
    cache.follow()
    assert cache.known(secret) is None
    before = store.reads
    cache.named(key.id)
    assert store.reads == before + 1


def test_key_that_is_forgotten_while_it_is_read_by_name_is_read_again() -> None:
    _, cache, _, key = _with_key()
    cache.named(key.id)

    class Vanishing(dict[str, Any]):
        def __contains__(self, name: object) -> bool:
            is_known = super().__contains__(name)
            self.pop(str(name), None)  # as the thread that follows changes does
            return is_known

    cache._ids = Vanishing(cache._ids)
    assert cache.named(key.id).key == key.id


def test_many_changes_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_cache, "AT_ONCE", 3)
    store, cache, secret, key = _with_key()
    cache.find(secret)
    for _ in range(7):
        store.note("other")
    store.block(key.id)
    cache.follow()
    assert cache.find(secret).refused


def test_known_keys_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_cache, "MOST_KNOWN", 2)
    store, cache, _, _ = _with_key()
    secrets = [store.make()[0] for _ in range(3)]
    for secret in secrets:
        assert cache.find(secret)
    assert [cache.known(secret) is not None for secret in secrets] == [False, True, True]


def test_thread_follows_changes_and_survives_faults(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(key_cache, "INTERVAL", 0.005)
    caplog.set_level(logging.CRITICAL)
    store = MemoryKeys()
    cache = KeyCache(store)
    secret, key = store.make()
    cache.find(secret)
    failed: list[int] = []
    changes = store.changes

    def fail(since: int, most: int) -> Any:
        failed.append(since)
        raise RuntimeError

    monkeypatch.setattr("proxy.runtime.keep_alive.PAUSE", 0.0)
    store.changes = fail  # type: ignore[method-assign]
    wait_until(lambda: bool(failed))
    store.changes = changes  # type: ignore[method-assign]
    store.block(key.id)
    wait_until(lambda: cache.known(secret) is None)
    cache.close()


def test_person_is_looked_up_once_until_a_user_or_the_key_changes() -> None:
    store, cache, secret, _ = _with_key()
    key = cache.find(secret)
    assert key is not None

    def asks(identity: Identity) -> int:
        before = store.reads
        assert cache.person(identity, User(id="ann")).user == "ann"
        return store.reads - before

    assert [asks(key) for _ in range(3)] == [1, 0, 0]
    store.note("k", "team")
    cache.follow()
    assert asks(key) == 0
    store.note("ann", "user")
    cache.follow()
    assert [asks(key), asks(key)] == [1, 0]
    assert asks(replace(key, on_overflow="compact")) == 1


def test_known_person_stays_while_the_store_is_away() -> None:
    store, cache, secret, _ = _with_key()
    key = cache.find(secret)
    assert key is not None
    cache.person(key, User(id="ann"))
    store.away = True
    assert cache.person(key, User(id="ann")).person == "ann"
    with pytest.raises(StoreUnavailable):
        cache.person(key, User(id="bob"))


def test_known_people_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    store, cache, secret, _ = _with_key()
    key = cache.find(secret)
    assert key is not None
    monkeypatch.setattr(key_cache, "MOST_NAMED", 2)
    for name in ("ann", "bob", "carl"):
        cache.person(key, User(id=name))
    before = store.reads
    cache.person(key, User(id="carl"))
    assert store.reads == before
    cache.person(key, User(id="ann"))
    assert store.reads == before + 1
