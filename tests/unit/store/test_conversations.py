from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from proxy.errors import NotFound, QuotaExceeded, StoreUnavailable
from proxy.store import conversations
from proxy.store.conversations import LEASE, ConversationStore
from proxy.store.database import Database
from proxy.store.quota import Quota
from proxy.store.records import AdoptedMessage


@pytest.fixture
def store(database: Database) -> ConversationStore:
    ticks = itertools.count(1)
    return ConversationStore(database, clock=lambda: float(next(ticks)))


def test_answer_without_heartbeat_is_interrupted(database: Database) -> None:
    now = 1000.0
    store = ConversationStore(database, clock=lambda: now)
    talk = store.create("ann")
    growing, renewed, _lost = (
        store.add("ann", talk.id, "assistant", status="growing") for _ in range(3)
    )
    done = store.add("ann", talk.id, "assistant", "Done")
    now += LEASE - 1
    assert store.append(growing.id, "a word")
    assert store.renew(renewed.id)
    now += 2
    assert [message.status for message in store.messages("ann", talk.id)] == [
        "growing", "growing", "interrupted", "done",
    ]  # fmt: skip
    assert not store.renew(done.id) and not store.renew("x")
    now += LEASE
    assert store.message("ann", growing.id).status == "interrupted"


def test_slow_writer_finishes_its_answer(database: Database) -> None:
    now = 1000.0
    store = ConversationStore(database, clock=lambda: now)
    answer = store.add("ann", store.create("ann").id, "assistant", "Half", status="growing")
    now += LEASE + 1
    assert store.message("ann", answer.id).status == "interrupted"
    assert store.renew(answer.id), "its writer is not told to stop"
    assert store.message("ann", answer.id).status == "growing"
    now += LEASE + 1
    assert store.message("ann", answer.id).status == "interrupted"
    store.append(answer.id, " and half")
    store.finish(answer.id, "done")
    whole = store.message("ann", answer.id)
    assert (whole.status, whole.content) == ("done", "Half and half")


def test_short_database_outage_does_not_interrupt_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    folder = tmp_path / "disk"
    folder.mkdir()
    database = Database(f"sqlite:///{folder / 'kept.db'}")
    database.upgrade()
    store = ConversationStore(database, clock=lambda: now)
    answer = store.add("ann", store.create("ann").id, "assistant", status="growing")
    away = folder.rename(tmp_path / "away")
    with pytest.raises(StoreUnavailable):
        store.renew(answer.id)
    now += LEASE + 10
    away.rename(folder)
    assert store.message("ann", answer.id).status == "growing", "no writer could renew it"
    monkeypatch.setattr(database, "_failed", database._failed - LEASE - 1)  # time goes by
    assert store.message("ann", answer.id).status == "interrupted"
    database.close()


def test_data_of_another_owner_is_invisible(store: ConversationStore) -> None:
    talk = store.create("ann")
    said = store.add("ann", talk.id, "user", "secret")
    assert store.recent("bob", "secret") == ()
    for call in (
        lambda: store.get("bob", talk.id),
        lambda: store.change("bob", talk.id, "mine"),
        lambda: store.delete("bob", talk.id),
        lambda: store.messages("bob", talk.id),
        lambda: store.message("bob", said.id),
        lambda: store.add("bob", talk.id, "user", "hello"),
        lambda: store.reopen("bob", said.id),
    ):
        with pytest.raises(NotFound):
            call()
    assert store.clear("bob") == 0 and list(store.each_message("bob", talk.id)) == []


def test_parent_must_be_in_the_same_conversation(store: ConversationStore) -> None:
    talk, other = store.create("ann"), store.create("ann")
    said = store.add("ann", talk.id, "user", "Q")
    with pytest.raises(NotFound):
        store.add("ann", other.id, "assistant", "A", parent_id=said.id)


def test_conversations_of_a_key_are_bounded(
    store: ConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "MOST_CONVERSATIONS", 3)
    made = [store.create("ann") for _ in range(3)]
    with pytest.raises(
        QuotaExceeded, match="an API key may store at most 3 conversations: delete some"
    ):
        store.create("ann")
    store.create("bob")
    store.delete("ann", made[0].id)
    store.create("ann")
    assert len(store.recent("ann")) == 3


def test_messages_of_a_conversation_are_bounded(
    store: ConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "MOST_MESSAGES", 3)
    talk = store.create("ann")
    for role in ("user", "assistant", "user"):
        store.add("ann", talk.id, role, "x")
    with pytest.raises(QuotaExceeded, match="a conversation may have at most 3 messages"):
        store.add("ann", talk.id, "assistant", "x")
    assert len(store.messages("ann", talk.id)) == 3
    store.add("ann", store.create("ann").id, "user", "x")


def test_questions_and_images_count_towards_bytes_of_a_key(database: Database) -> None:
    store = ConversationStore(database, quota=Quota(bytes=100))
    talk = store.create("ann")
    store.add("ann", talk.id, "user", "x" * 48)
    answer = store.add("ann", talk.id, "assistant", "y" * 500)
    store.add("ann", talk.id, "user", "x" * 48, answer.id)  # each with an empty object: 100
    with pytest.raises(QuotaExceeded, match=r"100 bytes .*conversations.*--quota-bytes"):
        store.add("ann", talk.id, "user", "")
    assert len(store.messages("ann", talk.id)) == 3
    store.add("bob", store.create("bob").id, "user", "x")
    images = {"images": [{"name": "a", "url": "data:image/png;base64," + "A" * 100}]}
    with pytest.raises(QuotaExceeded):
        store.add("bob", store.create("bob").id, "user", "x", extra=images)
    store.delete("ann", talk.id)
    store.add("ann", store.create("ann").id, "user", "x" * 98)


def test_pinned_conversations_are_listed_and_keep_their_time(
    store: ConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "MOST_SHOWN", 2)
    old, new = store.create("ann", "Old"), store.create("ann", "New")
    store.change("ann", old.id, edit=lambda _: {"pinned": True, "files": "base_1"})
    store.create("bob", settings={"pinned": True})
    (pinned,) = store.pinned("ann")
    assert (pinned.id, pinned.changed) == (old.id, old.changed)
    assert [talk.id for talk in store.recent("ann")] == [new.id, old.id]
    store.change("ann", old.id, edit=lambda before: {**before, "pinned": False})
    assert store.pinned("ann") == ()
    made = [store.create("ann", settings={"pinned": True}) for _ in range(3)]
    assert [talk.id for talk in store.pinned("ann")] == [made[2].id, made[1].id]


def test_adopted_conversation_keeps_its_branches_and_times(store: ConversationStore) -> None:
    for _ in range(9):
        store.create("bob")  # time goes by
    messages = [
        AdoptedMessage(None, "user", "Q", created=6.0),
        AdoptedMessage(0, "assistant", "A", "Hm."),
        AdoptedMessage(0, "assistant", "B"),
    ]
    made = store.create("ann", "Title", created=5.0, changed=1e10, messages=messages)
    assert made.created == 5.0 and made.changed < 1e10  # not in the future
    question, first, second = store.messages("ann", made.id)
    assert (question.created, first.created) == (6.0, 5.0)
    assert first.parent_id == second.parent_id == question.id
    assert (first.content, first.reasoning, first.status) == ("A", "Hm.", "done")
    assert [message.content for message in store.path("ann", second.id)] == ["Q", "B"]


def test_question_is_deleted_with_its_answers_and_what_follows_stays(
    store: ConversationStore,
) -> None:
    talk = store.create("ann").id

    def add(role: conversations.Role, text: str, parent: str | None = None) -> str:
        return store.add("ann", talk, role, text, parent).id

    first = add("user", "One?")
    said = add("assistant", "One.", first)
    second = add("user", "Two?", said)
    answers = [add("assistant", f"Two, version {n}.", second) for n in (1, 2)]
    third = [add("user", "Three?", answer) for answer in answers]
    last = add("assistant", "Three.", third[0])
    with pytest.raises(NotFound):
        store.remove("bob", second)
    assert set(store.remove("ann", second)) == {second, *answers}
    left = {message.id: message.parent_id for message in store.messages("ann", talk)}
    assert left == {first: None, said: first, third[0]: said, third[1]: said, last: third[0]}
    assert store.remove("ann", third[0]) == (third[0], last)
    assert store.remove("ann", first) == (first, said)
    assert [message.parent_id for message in store.messages("ann", talk)] == [None]


def test_answer_is_deleted_with_what_follows_it(database: Database) -> None:
    store = ConversationStore(database, quota=Quota(bytes=10))
    talk = store.create("ann").id
    first = store.add("ann", talk, "user", "12345")
    said, other = (store.add("ann", talk, "assistant", "A", first.id) for _ in range(2))
    after = store.add("ann", talk, "user", "1", said.id)
    with pytest.raises(QuotaExceeded):
        store.add("ann", talk, "user", "too many", other.id)
    assert store.remove("ann", said.id) == (said.id, after.id)
    assert [message.id for message in store.messages("ann", talk)] == [first.id, other.id]
    assert store.remove("ann", first.id) == (first.id, other.id)
    store.add("ann", talk, "user", "12345678")  # the bytes are free again
