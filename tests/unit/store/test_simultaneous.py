"""Two requests of a key at once: no message, setting or bound of it is lost."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest

from proxy.errors import QuotaExceeded
from proxy.store import conversations, knowledge, request_batches
from proxy.store.conversations import ConversationStore
from proxy.store.database import Database
from proxy.store.file_store import FileStore, StoredFile
from proxy.store.knowledge import KnowledgeStore
from proxy.store.quota import Quota
from proxy.store.records import Base, RequestBatch
from proxy.store.request_batches import RequestBatches
from tests.fakes import at_once

WRITERS = 4


def added(make: Callable[[int], object]) -> int:
    """Add WRITERS things at once; return how many were not refused."""
    made = []

    def work(number: int) -> None:
        try:
            make(number)
        except QuotaExceeded:
            return
        made.append(number)

    at_once(work, WRITERS)
    return len(made)


def test_every_message_of_several_writers_is_exported(database: Database) -> None:
    store = ConversationStore(database)
    talk = store.create("ann")
    first = store.add("ann", talk.id, "user", "Q")

    def write(number: int) -> None:
        for count in range(15):
            store.add("ann", talk.id, "assistant", f"{number}.{count}", first.id)

    at_once(write, WRITERS)
    exported = [message.content for message in store.each_message("ann", talk.id)]
    assert len(exported) == 1 + WRITERS * 15
    assert sorted(exported) == sorted(message.content for message in store.messages("ann", talk.id))


def test_settings_written_at_once_are_all_there(database: Database) -> None:
    store = ConversationStore(database)

    def write(number: int) -> None:
        store.change("ann", talk.id, edit=lambda before: {**before, f"of {number}": True})

    for _ in range(10):
        talk = store.create("ann")
        at_once(write, WRITERS)
        assert len(store.get("ann", talk.id).settings) == WRITERS


def test_messages_beyond_the_bound_are_refused_at_once_too(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "MOST_MESSAGES", 2)
    store = ConversationStore(database)
    talk = store.create("ann")
    store.add("ann", talk.id, "user", "Q")
    assert added(lambda number: store.add("ann", talk.id, "user", "x")) == 1


@pytest.mark.parametrize("what", ["conversations", "bases", "batches", "files", "bytes"])
def test_the_last_place_is_taken_once(
    what: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "MOST_CONVERSATIONS", 1)
    monkeypatch.setattr(knowledge, "MOST_BASES", 1)
    monkeypatch.setattr(request_batches, "MOST_OPEN", 1)

    def put(owner: str, number: int, quota: Quota) -> None:
        file = StoredFile(
            file_id=f"{owner}{number}", filename="a", purpose="p", size=6, created=1.0
        )
        FileStore(database, quota).put(owner, file, BytesIO(b"x" * 6))

    def add(owner: str, number: int) -> None:
        key = f"{owner}{number}"
        if what == "conversations":
            ConversationStore(database).create(owner)
        elif what == "bases":
            KnowledgeStore(database).add_base(owner, Base(id=key, name="b"))
        elif what == "batches":
            values: dict[str, Any] = {"endpoint": "/v1/embeddings", "file_id": "f", "times": {}}
            batch = RequestBatch(id=key, owner=owner, created=1.0, window="24h", **values)
            RequestBatches(database).add(batch)
        else:
            put(owner, number, Quota(files=1) if what == "files" else Quota(bytes=10))

    for turn in range(8):
        assert added(lambda number, owner=f"o{turn}-": add(owner, number)) == 1  # type: ignore[misc]
