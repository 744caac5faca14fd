"""The keys that a process knows."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from proxy.accounts import book as books
from proxy.accounts.book import Book
from proxy.accounts.records import StoredKey
from proxy.accounts.service import KeyService, blocking
from proxy.errors import StoreUnavailable
from tests.fakes import wait_until

from .stores import MemoryKeys

NEW = StoredKey(id="", digest="", shown="")


def _with_key(**fields: Any) -> tuple[MemoryKeys, Book, str, StoredKey]:
    store = MemoryKeys()
    book = Book(store, watch=False)
    new = StoredKey(id="", digest="", shown="", **fields)
    secret, key = KeyService(store, book).make(new, "ops")
    return store, book, secret, key


def test_found_key_is_asked_for_once() -> None:
    store, book, secret, key = _with_key()
    assert book.known(secret) is None
    assert book.find(secret) == book.known(secret)
    assert book.known(secret).key == key.id
    assert store.asked == 1


def test_mistyped_key_is_not_asked_for() -> None:
    store, book, secret, _ = _with_key()
    assert book.find(secret[:-1] + ("0" if secret[-1] != "0" else "1")) is None
    assert book.find("sk-alice") is None
    assert store.asked == 0


def test_unknown_key_is_asked_for_once_until_something_changes() -> None:
    store, book, _, key = _with_key()
    unknown = books.make_secret(bytes(books.SECRET_BYTES))
    assert book.find(unknown) is book.find(unknown) is None
    assert store.asked == 1
    store.note(key.id)
    book.follow()
    assert book.find(unknown) is None
    assert store.asked == 2


def test_change_of_another_process_is_followed() -> None:
    store, book, secret, key = _with_key()
    book.find(secret)
    book.named(key.id)
    store.change(key.id, blocking(True), "ops", "block")
    assert not book.known(secret).refused
    book.follow()
    assert book.known(secret) is None
    assert book.find(secret).refused
    assert book.named(key.id).refused


def test_change_while_a_key_is_read_is_not_missed() -> None:
    store, book, secret, key = _with_key()
    book.find(books.make_secret(bytes(books.SECRET_BYTES)))  # begins

    def blocked_meanwhile() -> None:
        store.on_find = lambda: None
        store.change(key.id, blocking(True), "ops", "block")
        book.follow()

    store.on_find = blocked_meanwhile
    book.find(secret)
    assert book.find(secret).refused


@pytest.mark.parametrize(("kind", "subject"), [("user", "u1"), ("team", "t1")])
def test_change_of_user_or_team_forgets_their_keys(kind: str, subject: str) -> None:
    store, book, secret, key = _with_key(user_id="u1", team_id="t1")
    book.find(secret)
    book.named(key.id)
    store.note("another", kind)
    book.follow()
    assert book.known(secret) is not None
    store.note(subject, kind)
    book.follow()
    assert book.known(secret) is None
    asked = store.asked
    book.named(key.id)
    assert store.asked == asked + 1


def test_known_keys_are_read_once_for_a_batch_of_changes() -> None:
    store, book, _, _ = _with_key()
    service = KeyService(store, book)
    reads: list[str] = []

    class Counted:
        key = "key_1"
        team = ""

        @property
        def user(self) -> str:
            reads.append(self.key)
            return "u7"

    store.find = lambda digest: Counted()  # type: ignore[assignment,method-assign,return-value]
    secret, _ = service.make(NEW, "ops")
    book.find(secret)
    for number in range(100):
        store.note(f"u{number}", "user")
    book.follow()
    assert len(reads) == 1
    assert book.known(secret) is None


def test_key_that_is_forgotten_while_it_is_read_by_name_is_read_again() -> None:
    _, book, _, key = _with_key()
    book.named(key.id)

    class Vanishing(dict[str, Any]):
        def __contains__(self, name: object) -> bool:
            found = super().__contains__(name)
            self.pop(str(name), None)  # as the thread that follows changes does
            return found

    book._ids = Vanishing(book._ids)
    assert book.named(key.id).key == key.id


def test_many_changes_forget_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "MOST_CHANGES", 3)
    store, book, secret, key = _with_key()
    book.find(secret)
    for _ in range(7):
        store.note("other")
    store.change(key.id, blocking(True), "ops", "block")
    book.follow()
    assert book.find(secret).refused


def test_known_keys_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "MOST_KNOWN", 2)
    store, book, _, _ = _with_key()
    service = KeyService(store, book)
    secrets = [service.make(NEW, "ops")[0] for _ in range(3)]
    for secret in secrets:
        assert book.find(secret)
    assert [book.known(secret) is not None for secret in secrets] == [False, True, True]


def test_unknown_keys_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "MOST_UNKNOWN", 2)
    store, book, _, _ = _with_key()
    unknown = [books.make_secret(bytes([i] * books.SECRET_BYTES)) for i in range(3)]
    for _ in range(2):
        for secret in unknown[1:]:
            book.find(secret)
    assert store.asked == 2
    book.find(unknown[0])
    book.find(unknown[1])
    assert store.asked == 4


def test_without_store_known_keys_go_on_and_others_are_refused() -> None:
    store, book, secret, _ = _with_key()
    other, _ = KeyService(store, book).make(NEW, "ops")
    book.find(secret)
    store.away = True
    assert book.known(secret) is not None
    with pytest.raises(StoreUnavailable):
        book.find(other)


def test_thread_follows_changes_and_survives_faults(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(books, "INTERVAL", 0.005)
    caplog.set_level(logging.CRITICAL)
    store = MemoryKeys()
    book = Book(store)
    secret, key = KeyService(store, book).make(NEW, "ops")
    book.find(secret)
    failed: list[int] = []
    changes = store.changes

    def fail(since: int, most: int) -> Any:
        failed.append(since)
        raise RuntimeError

    monkeypatch.setattr("proxy.runtime.lasting.PAUSE", 0.0)
    store.changes = fail  # type: ignore[method-assign]
    wait_until(lambda: bool(failed))
    store.changes = changes  # type: ignore[method-assign]
    store.change(key.id, blocking(True), "ops", "block")
    wait_until(lambda: book.known(secret) is None)
    book.close()
