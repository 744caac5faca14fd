"""Conversations of the chat page: messages form a tree, so an edited question or another answer is
a branch beside the first. Every call sees only its owner's rows.

A reader reports an unfinished message that was not renewed for LEASE seconds as interrupted, and
stores nothing, since the writer may only be slow.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, replace
from sqlalchemy import Connection, Row, Select, case, delete, func, insert, or_, select, update

from ..errors import InvalidParameter, NotFound
from .database import Database, containing, owned, record
from .quota import MOST_CONVERSATIONS, MOST_MESSAGES, MOST_SHARED, UNLIMITED, Quota, check_count
from .records import FOLDER, PINNED, AdoptedMessage, new_id
from .tables import CONVERSATION, MESSAGE, SHARED

Role = Literal["system", "user", "assistant"]
Status = Literal["growing", "done", "stopped", "failed", "interrupted"]

# Seconds without a renewal until the writer counts as dead; clocks of hosts may differ.
LEASE = 20.0
MOST_SHOWN = 100  # pinned conversations
TOO_LONG = "a conversation may have at most {} messages: start a new one"
LARGEST = 16 << 20  # bytes of a shared copy: a page has all of it
TOO_MANY = "an API key may share at most {} conversations: delete some of its links"
_folder = CONVERSATION.c.settings[FOLDER].as_string()
_GROWING = MESSAGE.c.status == "growing"


class StoredConversation(Struct, frozen=True):
    """`settings` belong to the page. Times are seconds since 1970."""

    id: str
    title: str
    settings: dict[str, Any]
    created: float
    changed: float


class StoredMessage(Struct, frozen=True, kw_only=True):
    """`extra` holds steps, sources, files, timings or an error."""

    id: str
    conversation_id: str
    parent_id: str | None
    number: int
    role: Role
    content: str
    reasoning: str
    status: Status
    extra: dict[str, Any]
    created: float


class SharedConversation(Struct, frozen=True):
    """A copy of a branch that its owner shares: who knows its id may read it. `messages` are what
    the page wrote. `created` is in seconds since 1970."""

    id: str
    owner: str
    created: float
    title: str
    messages: list[dict[str, Any]]


class Link(Struct, frozen=True):
    id: str
    created: float
    title: str


class SharedStore:
    def __init__(self, database: Database, clock: Callable[[], float], quota: Quota) -> None:
        self._db, self._clock, self._quota = database, clock, quota

    def add(
        self, owner: str, conversation: str, title: str, messages: Sequence[dict[str, Any]]
    ) -> Link:
        """Keep a copy. Raises InvalidParameter, NotFound and QuotaExceeded."""
        link = Link(secrets.token_urlsafe(16), self._clock(), title)
        row = {"owner": owner, "conversation_id": conversation, "messages": list(messages)}
        size = len(msgspec.json.encode(messages))
        if size > LARGEST:
            raise InvalidParameter("leaf", "ends a branch that is too large to be shared")
        with self._db.begin_for(owner) as db:
            db.execute(insert(SHARED).values(**row, **asdict(link), size=size))
            check_count(db, SHARED, MOST_SHARED, TOO_MANY, SHARED.c.owner == owner)
            self._quota.check(db, owner)
        return link

    def links(self, owner: str, conversation: str) -> Sequence[Link]:
        """The copies of a conversation, the newest first."""
        row = SHARED.c
        query = select(row.id, row.created, row.title)
        query = query.where(row.owner == owner, row.conversation_id == conversation)
        return self._db.records(Link, query.order_by(row.created.desc()))

    def read(self, link: str) -> SharedConversation:
        """Raises NotFound."""
        shared = self._db.one(SharedConversation, select(SHARED).where(SHARED.c.id == link))
        if shared is None:
            raise NotFound("there is no such page, or it is no longer shared")
        return shared

    def remove(self, owner: str, link: str) -> None:
        """Raises NotFound."""
        if not self._db.change(delete(SHARED).where(owned(SHARED, owner, link))):
            raise NotFound("this link does not exist")


class ConversationStore:
    """Every call may raise NotFound for rows of other owners."""

    def __init__(
        self, database: Database, clock: Callable[[], float] = time.time, quota: Quota = UNLIMITED
    ) -> None:
        self._db = database
        self._clock = clock
        self._quota = quota
        self.shared = SharedStore(database, clock, quota)

    # conversations

    def create(
        self,
        owner: str,
        title: str = "",
        settings: Mapping[str, Any] | None = None,
        *,
        created: float = 0.0,
        changed: float = 0.0,
        messages: Sequence[AdoptedMessage] = (),
    ) -> StoredConversation:
        """Add a conversation, with messages from elsewhere: parents before their replies. Times of
        0 or in the future become now. Raises QuotaExceeded."""
        now = self._clock()
        created, changed = (time if 0 < time <= now else now for time in (created, changed))
        made = StoredConversation(new_id("conv_"), title, dict(settings or {}), created, changed)
        ids = [new_id("msg_") for _ in messages]
        rows: list[dict[str, Any]] = [
            {
                "id": ids[n],
                "conversation_id": made.id,
                "parent_id": None if message.parent is None else ids[message.parent],
                "number": n + 1,
                "role": message.role,
                "content": message.content,
                "reasoning": message.reasoning,
                "status": "done",
                "extra": {},
                "created": message.created or created,
                "touched": now,
            }
            for n, message in enumerate(messages)
        ]
        size = sum(len((row["content"] + row["reasoning"]).encode()) for row in rows)
        with self._db.begin_for(owner) as db:
            values = {"owner": owner, "size": size, **asdict(made)}
            db.execute(insert(CONVERSATION).values(**values))
            refusal = "an API key may store at most {} conversations: delete some"
            mine = CONVERSATION.c.owner == owner
            check_count(db, CONVERSATION, MOST_CONVERSATIONS, refusal, mine)
            if rows:
                db.execute(insert(MESSAGE), rows)
                in_it = MESSAGE.c.conversation_id == made.id
                check_count(db, MESSAGE, MOST_MESSAGES, TOO_LONG, in_it)
                self._quota.check(db, owner)
        return made

    def recent(
        self,
        owner: str,
        search: str = "",
        limit: int | None = 50,
        before: float | None = None,
        folder: str | None = None,
    ) -> tuple[StoredConversation, ...]:
        """Those with the words `search` in title or messages, the last changed first. `before` is
        the `changed` time of the last one of the previous page. `folder` "": those in no folder."""
        query = select(CONVERSATION).where(CONVERSATION.c.owner == owner)
        if search:
            spoken = select(MESSAGE.c.conversation_id).where(*containing(search, MESSAGE.c.content))
            named = containing(search, CONVERSATION.c.title)
            query = query.where(or_(*named, CONVERSATION.c.id.in_(spoken)))
        if before is not None:
            query = query.where(CONVERSATION.c.changed < before)
        if folder is not None:
            query = query.where(func.coalesce(_folder, "") == folder)
        query = query.order_by(CONVERSATION.c.changed.desc()).limit(limit)
        return tuple(self._db.records(StoredConversation, query))

    def pinned(self, owner: str) -> tuple[StoredConversation, ...]:
        """Return the pinned conversations, the last changed first, at most MOST_SHOWN."""
        chosen = CONVERSATION.c.settings[PINNED].as_boolean().is_(True)
        query = select(CONVERSATION).where(CONVERSATION.c.owner == owner, chosen)
        query = query.order_by(CONVERSATION.c.changed.desc()).limit(MOST_SHOWN)
        return tuple(self._db.records(StoredConversation, query))

    def folders(self, owner: str) -> tuple[str, ...]:
        """The names of the folders that have conversations, sorted."""
        query = select(_folder.label("name")).where(CONVERSATION.c.owner == owner)
        names = self._db.rows(query.where(_folder.is_not(None), _folder != "").distinct())
        return tuple(sorted(row.name for row in names))

    def rename_folder(self, owner: str, folder: str, name: str) -> None:
        """Give a folder another name, which may be that of another one; "" dissolves it."""
        row = CONVERSATION.c
        inside = select(row.id, row.settings).where(row.owner == owner, _folder == folder)
        with self._db.begin_for(owner) as db:
            for id_, settings in db.execute(inside).all():
                change = update(CONVERSATION).where(row.id == id_)
                db.execute(change.values(settings={**settings, FOLDER: name}))

    def get(self, owner: str, conversation_id: str) -> StoredConversation:
        with self._db.begin() as db:
            return _conversation(db, owner, conversation_id)

    def change(
        self,
        owner: str,
        conversation_id: str,
        title: str | None = None,
        edit: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
        when: Callable[[Mapping[str, Any]], bool] = lambda settings: True,
    ) -> StoredConversation:
        """Change a conversation, but not its time. `edit` sees the settings as they are, and
        nothing is changed unless `when` is true of them."""
        with self._db.begin_for(owner) as db:
            before = _conversation(db, owner, conversation_id)
            if not when(before.settings):
                return before
            after = replace(
                before,
                title=before.title if title is None else title,
                settings=dict(edit(before.settings)),
            )
            change = update(CONVERSATION).where(CONVERSATION.c.id == conversation_id)
            db.execute(change.values(title=after.title, settings=after.settings))
        return after

    def delete(self, owner: str, conversation_id: str) -> None:
        self.get(owner, conversation_id)
        self._db.change(delete(CONVERSATION).where(CONVERSATION.c.id == conversation_id))

    def clear(self, owner: str) -> int:
        """Delete all conversations of the owner; return how many there were."""
        return self._db.change(delete(CONVERSATION).where(CONVERSATION.c.owner == owner))

    # messages

    def messages(self, owner: str, conversation_id: str) -> tuple[StoredMessage, ...]:
        self.get(owner, conversation_id)
        where = MESSAGE.c.conversation_id == conversation_id
        return self._read(select(MESSAGE).where(where).order_by(MESSAGE.c.number))

    def each_message(self, owner: str, conversation_id: str) -> Iterator[StoredMessage]:
        """Like `messages`, but read one at a time: each may contain large images."""
        own = select(CONVERSATION.c.id).where(owned(CONVERSATION, owner, conversation_id))
        query = select(MESSAGE).where(MESSAGE.c.conversation_id.in_(own))
        return map(self._message, self._db.in_parts(query, MESSAGE.c.number, 1))

    def message(self, owner: str, message_id: str) -> StoredMessage:
        query = select(MESSAGE).join(CONVERSATION, CONVERSATION.c.id == MESSAGE.c.conversation_id)
        query = query.where(CONVERSATION.c.owner == owner, MESSAGE.c.id == message_id)
        messages = self._read(query)
        if not messages:
            raise NotFound(f"no such message: {message_id[:100]!r}")
        return messages[0]

    def _read(self, query: Select[Any]) -> tuple[StoredMessage, ...]:
        return tuple(map(self._message, self._db.rows(query)))

    def _message(self, row: Row[Any]) -> StoredMessage:
        lost = row.status == "growing" and self._db.is_silent(row, self._clock(), LEASE)
        return record(StoredMessage, row, status="interrupted" if lost else row.status)

    def path(self, owner: str, message_id: str) -> tuple[StoredMessage, ...]:
        last = self.message(owner, message_id)
        messages = self.messages(owner, last.conversation_id)
        by_id = {message.id: message for message in messages}
        path = [last]
        while (parent := path[-1].parent_id) is not None and parent in by_id:
            path.append(by_id[parent])
        return tuple(reversed(path))

    def add(
        self,
        owner: str,
        conversation_id: str,
        role: Role,
        content: str = "",
        parent_id: str | None = None,
        status: Status = "done",
        extra: Mapping[str, Any] | None = None,
    ) -> StoredMessage:
        """Add a message under another, or as the first of a branch. Raises QuotaExceeded."""
        self.get(owner, conversation_id)
        if parent_id is not None and (
            self.message(owner, parent_id).conversation_id != conversation_id
        ):
            raise NotFound(f"this conversation has no message {parent_id[:100]!r}")
        now = self._clock()
        values = {"id": new_id("msg_"), "conversation_id": conversation_id, "parent_id": parent_id}
        values |= {"role": role, "content": content, "reasoning": "", "status": status}
        in_conversation = MESSAGE.c.conversation_id == conversation_id
        count = select(func.coalesce(func.max(MESSAGE.c.number), 0) + 1).where(in_conversation)
        with self._db.begin_for(owner) as db:
            number = db.execute(count).scalar_one()
            rest = {"number": number, "extra": dict(extra or {}), "created": now, "touched": now}
            db.execute(insert(MESSAGE).values(**values, **rest))
            check_count(db, MESSAGE, MOST_MESSAGES, TOO_LONG, in_conversation)
            where = CONVERSATION.c.id == conversation_id
            change = update(CONVERSATION).where(where)
            if role != "user":
                db.execute(change.values(changed=now))
            else:
                size = _size(content, rest["extra"])
                db.execute(change.values(changed=now, size=CONVERSATION.c.size + size))
                self._quota.check(db, owner)
        return self.message(owner, str(values["id"]))

    def remove(self, owner: str, message_id: str) -> tuple[str, ...]:
        """Delete a message; return the ids of all that are gone. A question goes with its answers,
        and what follows them then follows what was before it. An answer goes with what follows."""
        target = self.message(owner, message_id)
        row = MESSAGE.c
        here = row.conversation_id == target.conversation_id
        with self._db.begin_for(owner) as db:
            replies: dict[str | None, list[str]] = {}
            roles = {}
            tree = select(row.id, row.parent_id, row.role).where(here)
            for id_, parent, role in db.execute(tree):
                replies.setdefault(parent, []).append(id_)
                roles[id_] = role
            gone = [message_id]
            if target.role == "user":
                gone += [id_ for id_ in replies.get(message_id, ()) if roles[id_] != "user"]
                left = {id_ for message in gone for id_ in replies.get(message, ())}
                moved = update(MESSAGE).where(here, row.id.in_(left.difference(gone)))
                db.execute(moved.values(parent_id=target.parent_id))
            else:
                for message in gone:  # which grows
                    gone += replies.get(message, ())
            questions = select(row.content, row.extra).where(row.id.in_(gone), row.role == "user")
            size = sum(_size(content, extra) for content, extra in db.execute(questions))
            conversation = CONVERSATION.c.id == target.conversation_id
            before = db.execute(select(CONVERSATION.c.size).where(conversation)).scalar_one()
            change = update(CONVERSATION).where(conversation)
            db.execute(change.values(size=max(before - size, 0)))
            db.execute(delete(MESSAGE).where(here, row.id.in_(gone)))
        return tuple(gone)

    def append(
        self,
        message_id: str,
        content: str = "",
        reasoning: str = "",
        extra: Mapping[str, Any] | None = None,
    ) -> bool:
        """Append to an unfinished answer. `extra` replaces the stored value. Returns False, and
        changes nothing, if the answer is finished or deleted. The owner was checked by `add`."""
        values: dict[str, Any] = {} if extra is None else {"extra": dict(extra)}
        values["content"] = MESSAGE.c.content + content
        values["reasoning"] = MESSAGE.c.reasoning + reasoning
        return self._grow(message_id, values)

    def renew(self, message_id: str) -> bool:
        """Renew an unfinished message, every few seconds. Returns False like `append`."""
        return self._grow(message_id, {})

    def _grow(self, message_id: str, values: dict[str, Any]) -> bool:
        growing = update(MESSAGE).where(MESSAGE.c.id == message_id, _GROWING)
        return self._db.change(growing.values(**values, touched=self._clock())) > 0

    def reopen(self, owner: str, message_id: str) -> StoredMessage:
        """Make a finished answer, the last of its branch, unfinished again for `append`."""
        message = self.message(owner, message_id)
        replies = select(func.count()).where(MESSAGE.c.parent_id == message_id)
        with self._db.begin_for(owner) as db:
            if db.execute(replies).scalar_one():
                raise InvalidParameter("message", "must be the last one of its branch")
            growing = update(MESSAGE).where(MESSAGE.c.id == message_id, ~_GROWING)
            done = growing.where(MESSAGE.c.role == "assistant")
            if not db.execute(done.values(status="growing", touched=self._clock())).rowcount:
                raise InvalidParameter("message", "must be an answer that is not being written")
            where = CONVERSATION.c.id == message.conversation_id
            db.execute(update(CONVERSATION).where(where).values(changed=self._clock()))
        return self.message(owner, message_id)

    def finish(
        self, message_id: str, status: Status, extra: Mapping[str, Any] | None = None
    ) -> None:
        """Finish an answer, unless it was stopped. `extra` None keeps the value."""
        values: dict[str, Any] = {"status": case((_GROWING, status), else_=MESSAGE.c.status)}
        if extra is not None:
            values["extra"] = dict(extra)
        self._db.change(update(MESSAGE).where(MESSAGE.c.id == message_id).values(**values))

    def interrupted(self) -> int:
        """Mark answers left unfinished by a process that ended; return how many there were."""
        return self._db.change(update(MESSAGE).where(_GROWING).values(status="interrupted"))


def _size(content: str, extra: Any) -> int:
    """The bytes of a question that count for the quota."""
    return len(content.encode()) + len(msgspec.json.encode(extra))


def _conversation(db: Connection, owner: str, conversation_id: str) -> StoredConversation:
    query = select(CONVERSATION).where(owned(CONVERSATION, owner, conversation_id))
    row = db.execute(query).first()
    if row is None:
        raise NotFound(f"no such conversation: {conversation_id[:100]!r}")
    return record(StoredConversation, row)
