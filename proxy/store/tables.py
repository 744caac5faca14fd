"""The current tables. The steps of `revisions` turn those of an older version into them."""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    select,
)

from .ledger_rows import SUMMED
from .records import Tokens

metadata = MetaData()


def _table(name: str, *columns: Any) -> Table:
    return Table(name, metadata, *columns)


def _text(name: str, *args: Any, **how: Any) -> Column[str]:
    return Column(name, String, *args, nullable=False, **how)


def _key(*names: str) -> list[Column[str]]:
    return [_text(name, primary_key=True) for name in names]


def _columns(**types: Any) -> list[Column[Any]]:
    """Columns that are never null."""
    return [Column(name, kind, nullable=False) for name, kind in types.items()]


def _texts(*names: str) -> list[Column[Any]]:
    return _columns(**dict.fromkeys(names, String))


def _of(table: str, key: str = "id") -> ForeignKey:
    return ForeignKey(f"{table}.{key}", ondelete="CASCADE")


def _number(name: str = "number", kind: Any = Integer) -> Column[int]:
    """Return a part of a primary key that the database does not count itself."""
    return Column(name, kind, primary_key=True, autoincrement=False)


_SUMS = {name: Float if name.endswith("_seconds") else BigInteger for name in SUMMED}

BASE = _table(
    "knowledge_base",
    *_key("id"),
    _text("owner", index=True),
    *_columns(name=String, embedding_model=String, info=Text, created=Float, temporary=Boolean),
    Column("expires", Float),
)
DOCUMENT = _table(
    "document",
    *_key("id"),
    _text("base_id", _of("knowledge_base"), index=True),
    *_texts("owner", "filename", "reader"),
    *_columns(size=Integer, chunks=Integer, chunk_size=Integer, chunk_overlap=Integer),
    _text("status", index=True),
    *_columns(error=Text, done=Float, created=Float, beat=Float),
    _text("job_id", index=True),
)
ORIGINAL = _table(
    "document_piece",
    _text("document_id", _of("document"), primary_key=True),
    _number(),
    *_columns(data=LargeBinary),
)
CHUNK = _table(
    "chunk",
    *_key("id"),
    _text("document_id", _of("document")),
    *_columns(number=Integer, text=Text, place=Text),
    Index("chunk_order", "document_id", "number"),
)
JOB = _table(
    "job",
    *_key("id"),
    _text("base_id", _of("knowledge_base"), index=True),
    *_columns(owner=String, kind=String, total=Integer, cancelled=Boolean, created=Float),
)
CONVERSATION = _table(
    "conversation",
    *_key("id"),
    *_columns(owner=String, title=Text, settings=JSON, created=Float, changed=Float),
    Column("size", BigInteger, nullable=False, server_default="0"),
    Index("conversation_recent", "owner", "changed"),
)
MESSAGE = _table(
    "message",
    *_key("id"),
    _text("conversation_id", _of("conversation")),
    Column("parent_id", String),
    *_columns(number=Integer, role=String, status=String, content=Text, reasoning=Text),
    *_columns(extra=JSON, created=Float),
    Column("touched", Float, nullable=False, server_default="0"),
    Index("message_order", "conversation_id", "number", unique=True),
)
# A copy of a branch of a conversation, which everybody may read who knows its id.
SHARED = _table(
    "shared_conversation",
    *_key("id"),
    _text("owner", index=True),
    _text("conversation_id", _of("conversation"), index=True),
    *_columns(created=Float, title=Text, messages=JSON, size=BigInteger),
)
# Data of OpenAI's files and vector stores that bases and documents do not have.
FILES = _table(
    "openai_file",
    *_key("file_id"),
    _text("owner", index=True),
    *_columns(filename=String, purpose=String, size=Integer, created=Float),
    Column("expires", Float),
)
CONTENTS = _table(
    "openai_file_piece",
    _text("file_id", _of("openai_file", "file_id"), primary_key=True),
    _number(),
    *_columns(data=LargeBinary),
)
VECTOR_STORES = _table(
    "openai_vector_store",
    _text("base_id", _of("knowledge_base"), primary_key=True),
    *_columns(owner=String, metadata=JSON, active=Float),
    Column("lasts", Integer),
)
ATTACHED = _table(
    "openai_vector_store_file",
    _text("base_id", _of("knowledge_base"), primary_key=True),
    _text("file_id", primary_key=True, index=True),
    *_texts("owner", "document_id", "batch_id", "error"),
    *_columns(attributes=JSON, tokens=Integer, overlap=Integer, created=Float),
)
BATCHES = _table(
    "openai_file_batch",
    *_key("batch_id"),
    _text("base_id", _of("knowledge_base"), index=True),
    *_columns(owner=String, created=Float, cancelled=Boolean),
)
# Batches of requests (/v1/batches). `times` are those of `apis.batches`, `peer` is the address
# that made the batch. `writer` names the process that runs it, "" for none, and `touched` is its
# last sign of life, or when it gave the batch back.
REQUEST_BATCH = _table(
    "request_batch",
    *_key("id"),
    *_texts("owner", "endpoint", "file_id", "window", "model", "output_file"),
    *_texts("error_file", "peer", "writer"),
    *_columns(created=Float, touched=Float, metadata=JSON, errors=JSON, times=JSON),
    _text("status", index=True),
    *_columns(**{f"{name}_tokens": BigInteger for name in Tokens._fields}),
    *_columns(total=Integer, completed=Integer, failed=Integer),
    Column("lasts", Integer),
    Index("request_batch_order", "owner", "created", "id"),
)
# The lines of output and error files, by the number of the input line, until the files are written.
BATCH_RESULT = _table(
    "request_batch_result",
    _text("batch_id", _of("request_batch"), primary_key=True),
    _number(),
    *_columns(failed=Boolean, data=LargeBinary),
)
# Open sign-in sessions of the pages. The id is a digest of the cookie's content.
SESSION = _table(
    "session",
    *_key("id"),
    _text("owner", index=True),
    *_columns(created=Float),
    _text("agent", server_default=""),
    _text("peer", server_default=""),
)
# Of /v1/responses: a response, and the items that it was made of, as JSON; `size` is of both, in
# bytes. While it is being made, `writer` names the process, and `touched` is its last sign of life.
# The index has all that is needed to find the oldest ones beyond the bounds of a key.
RESPONSE = _table(
    "stored_response",
    *_key("id", "owner"),
    *_columns(created=Float, touched=Float, size=BigInteger, writer=String),
    *_columns(response=LargeBinary, input_items=LargeBinary),
    Index("stored_response_order", "owner", "created", "id", "size"),
)
RESPONSE_OWNER = _table("stored_response_owner", *_key("owner"), *_columns(cleared=Float))
# What models that the gateway starts needed; see `hosting.need`.
MODEL_NEED = _table("model_need", *_key("fingerprint"), *_columns(need=JSON, changed=Float))
# API keys that are made at run time, their users and teams; see `accounts.records`. A digest is
# that of a secret, made with the secret of the one row of `account_state`.
API_KEY = _table(
    "api_key",
    *_key("id"),
    Column("digest", String, nullable=False, unique=True),
    Column("alias", String, unique=True),
    Column("user_id", String, index=True),
    Column("team_id", String, index=True),
    Column("created", Float, nullable=False, index=True),
    Column("expires", Float),
    Column("former_digest", String, unique=True),
    *_columns(shown=String, created_by=String, changed=Float, former_until=Float),
    *_columns(blocked=Boolean, rights=JSON, metadata=JSON),
)
ACCOUNT_USER = _table(
    "account_user",
    *_key("id"),
    Column("email", String, unique=True),
    Column("alias", String),
    *_columns(created=Float, changed=Float, blocked=Boolean, rights=JSON, metadata=JSON),
)
TEAM = _table(
    "account_team",
    *_key("id"),
    Column("alias", String, unique=True),
    *_columns(created=Float, changed=Float, blocked=Boolean, rights=JSON, metadata=JSON),
)
# Every change of a key, user or team, in order: `number` has no gaps. Rows are never changed.
ACCOUNT_CHANGE = _table(
    "account_change",
    _number("number", BigInteger),
    *_columns(at=Float, actor=String, action=String, kind=String, details=JSON),
    _text("subject", index=True),
)
ACCOUNT_STATE = _table(
    "account_state", _number("id"), *_columns(number=BigInteger, secret=LargeBinary)
)
# The ledger: one row for each request that asks a model. Times of the day are milliseconds since
# 1970; see `ledger_rows`.
LEDGER = _table(
    "ledger_row",
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    *_texts("request", "key", "user", "team", "model", "backend", "api", "outcome", "client"),
    *_columns(ended=BigInteger, slot=Integer, **_SUMS, seconds=Float),
    _text("tags", server_default=""),
    Index("ledger_row_time", "ended", "id"),
)
# Sums of ledger rows by hour, which are kept when the rows are deleted. `hour` is when it began, in
# milliseconds since 1970.
LEDGER_HOUR = _table(
    "ledger_hour",
    _number("hour", BigInteger),
    *_key("key", "user", "team", "model", "api"),
    *_columns(requests=BigInteger, failed=BigInteger, **_SUMS),
)
# Counts of `measures` in spans of ten minutes, of hours and of days in UTC: their `width`, and when
# each began, in milliseconds.
LEDGER_MEASURE = _table(
    "ledger_measure",
    _number("width", BigInteger),
    _number("at", BigInteger),
    *_key("name"),
    _number("bucket"),
    *_columns(count=BigInteger),
)
# The last batch that each writer of the ledger has stored, so that none is stored twice.
LEDGER_WRITER = _table(
    "ledger_writer", *_key("writer"), *_columns(batch=BigInteger, touched=BigInteger)
)
# The revision of the other tables, in the form that Alembic gave it.
REVISION = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))


def create_all(db: Connection, revision: str) -> None:
    """Create the tables, and the rows that are always there, also after an interruption."""
    metadata.create_all(db)
    if db.execute(select(ACCOUNT_STATE.c.id)).first() is None:
        db.execute(ACCOUNT_STATE.insert().values(id=1, number=0, secret=secrets.token_bytes(32)))
    REVISION.create(db, checkfirst=True)
    db.execute(REVISION.insert().values(version_num=revision))
