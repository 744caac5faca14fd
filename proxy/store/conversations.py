"""Conversations of the pages: messages in a tree, so that an edited question or another answer is a
branch beside the first. Every call is for one owner, and sees nothing of another's.

A message that grows has a writer, which gives a sign of life again and again. Where the last one is
too long ago it is gone, and whoever reads the message next says so: it is interrupted.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct
from sqlalchemy import Select, case, delete, func, insert, or_, select, update
from sqlalchemy.engine import Row

from ..errors import NotFound
from .database import Database
from .quota import (
    MOST_CONVERSATIONS,
    MOST_MESSAGES,
    MOST_RATINGS,
    Quota,
    check_count,
    drop_oldest,
)
from .tables import CONVERSATION, FEEDBACK, MESSAGE

Role = Literal["system", "user", "assistant"]
Status = Literal["growing", "done", "stopped", "failed", "interrupted"]

LEASE = 20.0  # seconds after a sign until its writer is taken to be gone; hosts' clocks may differ
_GROWING = MESSAGE.c.status == "growing"


class Conversation(Struct, frozen=True):
    """`settings` are the page's own. Times are seconds since 1970."""

    id: str
    title: str
    settings: dict[str, Any]
    created: float
    changed: float


class Message(Struct, frozen=True):
    """`parent_id` None: the first of a branch. `extra` holds what came with it: steps, sources,
    files, timings, an error. `growing` while an answer is written."""

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


class Feedback(Struct, frozen=True):
    """`score` from -1 to 100: thumbs are -1 and 1, Chatchat's users give up to 100."""

    message_id: str
    score: int
    reason: str
    created: float


class ConversationStore:
    """Raises NotFound for what is not the owner's."""

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float] = time.time,
        quota: Quota = Quota(),  # noqa: B008
    ) -> None:
        self._db = database
        self._clock = clock
        self._quota = quota

    # conversations

    def create(
        self, owner: str, title: str = "", settings: Mapping[str, Any] | None = None
    ) -> Conversation:
        """Raises QuotaExceeded."""
        now = self._clock()
        made = Conversation(_new("conv_"), title, dict(settings or {}), now, now)
        values = {"id": made.id, "title": title, "settings": made.settings}
        with self._db.begin() as db:
            db.execute(insert(CONVERSATION).values(owner=owner, created=now, changed=now, **values))
            told = f"a key may keep {MOST_CONVERSATIONS} conversations: delete some"
            check_count(db, CONVERSATION, MOST_CONVERSATIONS, told, CONVERSATION.c.owner == owner)
        return made

    def recent(
        self,
        owner: str,
        search: str = "",
        limit: int | None = 50,
        before: float | None = None,
    ) -> tuple[Conversation, ...]:
        """The last changed first; those that have the words `search` in title or messages;
        `before` is the `changed` of the last one of the page before; `limit` None: all."""
        query = select(CONVERSATION).where(CONVERSATION.c.owner == owner)
        if search:
            spoken = select(MESSAGE.c.conversation_id).where(_has(MESSAGE.c.content, search))
            found = or_(_has(CONVERSATION.c.title, search), CONVERSATION.c.id.in_(spoken))
            query = query.where(found)
        if before is not None:
            query = query.where(CONVERSATION.c.changed < before)
        query = query.order_by(CONVERSATION.c.changed.desc()).limit(limit)
        with self._db.begin() as db:
            return tuple(_conversation(row) for row in db.execute(query))

    def get(self, owner: str, conversation_id: str) -> Conversation:
        with self._db.begin() as db:
            row = db.execute(_mine(owner, conversation_id)).first()
        if row is None:
            raise NotFound(f"there is no conversation {conversation_id[:100]!r}")
        return _conversation(row)

    def change(
        self,
        owner: str,
        conversation_id: str,
        title: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Conversation:
        """None leaves it as it is."""
        self.get(owner, conversation_id)
        values: dict[str, Any] = {"changed": self._clock()}
        if title is not None:
            values["title"] = title
        if settings is not None:
            values["settings"] = dict(settings)
        with self._db.begin() as db:
            where = CONVERSATION.c.id == conversation_id
            db.execute(update(CONVERSATION).where(where).values(**values))
        return self.get(owner, conversation_id)

    def delete(self, owner: str, conversation_id: str) -> None:
        self.get(owner, conversation_id)
        with self._db.begin() as db:
            db.execute(delete(CONVERSATION).where(CONVERSATION.c.id == conversation_id))

    def clear(self, owner: str) -> int:
        """All of them, and what was thought of them; how many they were."""
        with self._db.begin() as db:
            db.execute(delete(FEEDBACK).where(FEEDBACK.c.owner == owner))
            return db.execute(delete(CONVERSATION).where(CONVERSATION.c.owner == owner)).rowcount

    # messages

    def messages(self, owner: str, conversation_id: str) -> tuple[Message, ...]:
        """All branches, oldest first."""
        self.get(owner, conversation_id)
        where = MESSAGE.c.conversation_id == conversation_id
        return self._read(select(MESSAGE).where(where).order_by(MESSAGE.c.number))

    def each_message(self, owner: str, conversation_id: str) -> Iterator[Message]:
        """As `messages`, read one at a time: each may hold large pictures."""
        mine = select(CONVERSATION.c.id).where(
            CONVERSATION.c.owner == owner, CONVERSATION.c.id == conversation_id
        )
        query = select(MESSAGE).where(MESSAGE.c.conversation_id.in_(mine))
        query = query.order_by(MESSAGE.c.number).limit(1)
        number = -1
        while found := self._read(query.where(MESSAGE.c.number > number)):
            yield found[0]
            number = found[0].number

    def message(self, owner: str, message_id: str) -> Message:
        query = select(MESSAGE).join(CONVERSATION, CONVERSATION.c.id == MESSAGE.c.conversation_id)
        query = query.where(CONVERSATION.c.owner == owner, MESSAGE.c.id == message_id)
        found = self._read(query)
        if not found:
            raise NotFound(f"there is no message {message_id[:100]!r}")
        return found[0]

    def _read(self, query: Select[Any]) -> tuple[Message, ...]:
        """Those whose writer is gone are interrupted first."""
        with self._db.begin() as db:
            rows = db.execute(query).all()
        last = self._clock() - LEASE
        left = [one.id for one in rows if one.status == "growing" and one.touched < last]
        if left:  # unless it was heard of since, or another reader was quicker
            where = (MESSAGE.c.id.in_(left), MESSAGE.c.touched < last, _GROWING)
            with self._db.begin() as db:
                db.execute(update(MESSAGE).where(*where).values(status="interrupted"))
                rows = db.execute(query).all()
        return tuple(_message(row) for row in rows)

    def path(self, owner: str, message_id: str) -> tuple[Message, ...]:
        """A message and what came before it in its branch, oldest first."""
        last = self.message(owner, message_id)
        known = {one.id: one for one in self.messages(owner, last.conversation_id)}
        found = [last]
        while (parent := found[-1].parent_id) is not None and parent in known:
            found.append(known[parent])
        return tuple(reversed(found))

    def add(
        self,
        owner: str,
        conversation_id: str,
        role: Role,
        content: str = "",
        parent_id: str | None = None,
        status: Status = "done",
        extra: Mapping[str, Any] | None = None,
    ) -> Message:
        """A message under another, or the first of a branch. Raises QuotaExceeded."""
        self.get(owner, conversation_id)
        if parent_id is not None and (
            self.message(owner, parent_id).conversation_id != conversation_id
        ):
            raise NotFound(f"there is no message {parent_id[:100]!r} in this conversation")
        now = self._clock()
        values = {"id": _new("msg_"), "conversation_id": conversation_id, "parent_id": parent_id}
        values |= {"role": role, "content": content, "reasoning": "", "status": status}
        mine = MESSAGE.c.conversation_id == conversation_id
        count = select(func.coalesce(func.max(MESSAGE.c.number), 0) + 1).where(mine)
        with self._db.begin() as db:
            number = db.execute(count).scalar_one()
            rest = {"number": number, "extra": dict(extra or {}), "created": now, "touched": now}
            db.execute(insert(MESSAGE).values(**values, **rest))
            told = f"a conversation may have {MOST_MESSAGES} messages: begin a new one"
            check_count(db, MESSAGE, MOST_MESSAGES, told, mine)
            where = CONVERSATION.c.id == conversation_id
            change = update(CONVERSATION).where(where)
            if role != "user":
                db.execute(change.values(changed=now))
            else:
                size = len(content.encode()) + len(msgspec.json.encode(rest["extra"]))
                db.execute(change.values(changed=now, size=CONVERSATION.c.size + size))
                self._quota.check(db, owner)
        return self.message(owner, str(values["id"]))

    def append(
        self,
        message_id: str,
        content: str = "",
        reasoning: str = "",
        extra: Mapping[str, Any] | None = None,
    ) -> bool:
        """More of an answer that is growing; `extra` replaces what it had, None leaves that as it
        is. False, and nothing done, for one that grows no more or was deleted. Its owner was asked
        for when it was added."""
        values: dict[str, Any] = {"content": MESSAGE.c.content + content}
        values["reasoning"] = MESSAGE.c.reasoning + reasoning
        if extra is not None:
            values["extra"] = dict(extra)
        return self._grow(message_id, values)

    def renew(self, message_id: str) -> bool:
        """The writer's sign of life, each few seconds. False as of `append`."""
        return self._grow(message_id, {})

    def _grow(self, message_id: str, values: dict[str, Any]) -> bool:
        growing = update(MESSAGE).where(MESSAGE.c.id == message_id, _GROWING)
        with self._db.begin() as db:
            return db.execute(growing.values(**values, touched=self._clock())).rowcount > 0

    def finish(
        self, message_id: str, status: Status, extra: Mapping[str, Any] | None = None
    ) -> None:
        """It grows no more; `extra` None leaves that as it is. One that was stopped or interrupted
        before stays so."""
        values: dict[str, Any] = {"status": case((_GROWING, status), else_=MESSAGE.c.status)}
        if extra is not None:
            values["extra"] = dict(extra)
        with self._db.begin() as db:
            db.execute(update(MESSAGE).where(MESSAGE.c.id == message_id).values(**values))

    def interrupted(self) -> int:
        """At start: what was growing when the process ended is as whole as it will be. How many
        they were."""
        lost = update(MESSAGE).where(_GROWING).values(status="interrupted")
        with self._db.begin() as db:
            return db.execute(lost).rowcount

    # what is thought of them

    def rate(self, owner: str, message_id: str, score: int, reason: str = "") -> None:
        """Again: instead of what was thought before. The message may be of another API's. Of an
        owner's the newest MOST_RATINGS are kept."""
        with self._db.begin() as db:
            where = (FEEDBACK.c.owner == owner, FEEDBACK.c.message_id == message_id)
            db.execute(delete(FEEDBACK).where(*where))
            values = {"owner": owner, "message_id": message_id, "score": score, "reason": reason}
            db.execute(insert(FEEDBACK).values(created=self._clock(), **values))
            drop_oldest(db, FEEDBACK, MOST_RATINGS, FEEDBACK.c.owner == owner)

    def ratings(
        self, owner: str, skipped: int = 0, most: int | None = None
    ) -> tuple[Feedback, ...]:
        """Oldest first."""
        query = select(FEEDBACK).where(FEEDBACK.c.owner == owner)
        query = query.order_by(FEEDBACK.c.created, FEEDBACK.c.message_id)
        query = query.offset(skipped).limit(most)
        with self._db.begin() as db:
            rows = db.execute(query)
            return tuple(Feedback(r.message_id, r.score, r.reason, r.created) for r in rows)


def _mine(owner: str, conversation_id: str) -> Select[Any]:
    mine = (CONVERSATION.c.owner == owner, CONVERSATION.c.id == conversation_id)
    return select(CONVERSATION).where(*mine)


def _has(column: Any, words: str) -> Any:
    """Letters of either case; the words are no pattern."""
    return column.icontains(words, autoescape=True)


def _conversation(row: Row[Any]) -> Conversation:
    return Conversation(row.id, row.title, row.settings, row.created, row.changed)


def _message(row: Row[Any]) -> Message:
    return Message(
        row.id,
        row.conversation_id,
        row.parent_id,
        row.number,
        row.role,
        row.content,
        row.reasoning,
        row.status,
        row.extra,
        row.created,
    )


def _new(prefix: str) -> str:
    return prefix + uuid.uuid4().hex[:24]
