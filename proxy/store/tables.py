"""The current tables. Migrations turn those of an older version into them; a test compares both."""

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
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    select,
)

from .ledger_rows import SUMMED

metadata = MetaData()


def _text(name: str, *args: Any, **how: Any) -> Column[str]:
    return Column(name, String, *args, nullable=False, **how)


def _table(name: str, *columns: Any) -> Table:
    return Table(name, metadata, *columns)


def _texts(*names: str, **how: Any) -> list[Column[str]]:
    return [_text(name, **how) for name in names]


def _columns(kind: Any, *names: str) -> list[Column[Any]]:
    return [Column(name, kind, nullable=False) for name in names]


def _of(table: str) -> ForeignKey:
    return ForeignKey(f"{table}.id", ondelete="CASCADE")


def _number(name: str = "number", kind: Any = Integer) -> Column[int]:
    """Return a part of a primary key that the database does not count itself."""
    return Column(name, kind, primary_key=True, autoincrement=False)


def _counts() -> list[Column[Any]]:
    return [
        Column(name, Float if name.endswith("_seconds") else BigInteger, nullable=False)
        for name in SUMMED
    ]


BASE = _table(
    "knowledge_base",
    _text("id", primary_key=True),
    _text("owner", index=True),
    *_texts("name", "embedding_model"),
    Column("info", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("temporary", Boolean, nullable=False),
    Column("expires", Float),
)
DOCUMENT = _table(
    "document",
    _text("id", primary_key=True),
    _text("base_id", _of("knowledge_base"), index=True),
    *_texts("owner", "filename", "reader"),
    *_columns(Integer, "size", "chunks", "chunk_size", "chunk_overlap"),
    _text("status", index=True),
    Column("error", Text, nullable=False),
    *_columns(Float, "done", "created", "beat"),
    _text("job_id", index=True),
)
ORIGINAL = _table(
    "document_piece",
    _text("document_id", _of("document"), primary_key=True),
    _number(),
    *_columns(LargeBinary, "data"),
)
CHUNK = _table(
    "chunk",
    _text("id", primary_key=True),
    _text("document_id", _of("document")),
    Column("number", Integer, nullable=False),
    *_columns(Text, "text", "place"),
    Index("chunk_order", "document_id", "number"),
)
JOB = _table(
    "job",
    _text("id", primary_key=True),
    _text("base_id", _of("knowledge_base"), index=True),
    *_texts("owner", "kind"),
    Column("total", Integer, nullable=False),
    Column("cancelled", Boolean, nullable=False),
    Column("created", Float, nullable=False),
)
CONVERSATION = _table(
    "conversation",
    _text("id", primary_key=True),
    _text("owner"),
    Column("title", Text, nullable=False),
    Column("settings", JSON, nullable=False),
    *_columns(Float, "created", "changed"),
    Column("size", BigInteger, nullable=False, server_default="0"),
    Index("conversation_recent", "owner", "changed"),
)
MESSAGE = _table(
    "message",
    _text("id", primary_key=True),
    _text("conversation_id", _of("conversation")),
    Column("parent_id", String),
    Column("number", Integer, nullable=False),
    *_texts("role", "status"),
    *_columns(Text, "content", "reasoning"),
    Column("extra", JSON, nullable=False),
    Column("created", Float, nullable=False),
    Column("touched", Float, nullable=False, server_default="0"),
    Index("message_order", "conversation_id", "number", unique=True),
)
FEEDBACK = _table(
    "feedback",
    *_texts("owner", "message_id", primary_key=True),
    Column("score", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created", Float, nullable=False),
)
# Data of OpenAI's files and vector stores that bases and documents do not have.
FILES = _table(
    "openai_file",
    _text("file_id", primary_key=True),
    _text("owner", index=True),
    *_texts("filename", "purpose"),
    Column("size", Integer, nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float),
)
CONTENTS = _table(
    "openai_file_piece",
    _text("file_id", ForeignKey("openai_file.file_id", ondelete="CASCADE"), primary_key=True),
    _number(),
    *_columns(LargeBinary, "data"),
)
VECTOR_STORES = _table(
    "openai_vector_store",
    _text("base_id", _of("knowledge_base"), primary_key=True),
    _text("owner"),
    Column("metadata", JSON, nullable=False),
    Column("lasts", Integer),
    Column("active", Float, nullable=False),
)
ATTACHED = _table(
    "openai_vector_store_file",
    _text("base_id", _of("knowledge_base"), primary_key=True),
    _text("file_id", primary_key=True, index=True),
    *_texts("owner", "document_id", "batch_id", "error"),
    Column("attributes", JSON, nullable=False),
    *_columns(Integer, "tokens", "overlap"),
    Column("created", Float, nullable=False),
)
BATCHES = _table(
    "openai_file_batch",
    _text("batch_id", primary_key=True),
    _text("base_id", _of("knowledge_base"), index=True),
    _text("owner"),
    Column("created", Float, nullable=False),
    Column("cancelled", Boolean, nullable=False),
)
# Batches of requests (/v1/batches). `times` are those of `apis.batches`, `peer` is the address
# that made the batch. `writer` names the process that runs it, "" for none, and `touched` is its
# last sign of life, or when it gave the batch back.
REQUEST_BATCH = _table(
    "request_batch",
    _text("id", primary_key=True),
    *_texts("owner", "endpoint", "file_id", "window", "model", "output_file"),
    *_texts("error_file", "peer", "writer"),
    *_columns(Float, "created", "touched"),
    _text("status", index=True),
    *_columns(JSON, "metadata", "errors", "times"),
    *_columns(BigInteger, "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens"),
    *_columns(Integer, "total", "completed", "failed"),
    Column("lasts", Integer),
    Index("request_batch_order", "owner", "created", "id"),
)
# The lines of output and error files, by the number of the input line, until the files are written.
BATCH_RESULT = _table(
    "request_batch_result",
    _text("batch_id", _of("request_batch"), primary_key=True),
    _number(),
    Column("failed", Boolean, nullable=False),
    Column("data", LargeBinary, nullable=False),
)
# Open sign-in sessions of the pages. The id is a digest of the cookie's content.
SESSION = _table(
    "session",
    _text("id", primary_key=True),
    _text("owner", index=True),
    Column("created", Float, nullable=False),
    _text("agent", server_default=""),
    _text("peer", server_default=""),
)
# Of /v1/responses: a response, and the items that it was made of, as JSON; `size` is of both, in
# bytes. While it is being made, `writer` names the process, and `touched` is its last sign of life.
# The index has all that is needed to find the oldest ones beyond the bounds of a key.
RESPONSE = _table(
    "stored_response",
    *_texts("id", "owner", primary_key=True),
    *_columns(Float, "created", "touched"),
    Column("size", BigInteger, nullable=False),
    *_columns(LargeBinary, "response", "input_items"),
    _text("writer"),
    Index("stored_response_order", "owner", "created", "id", "size"),
)
RESPONSE_OWNER = _table(
    "stored_response_owner",
    _text("owner", primary_key=True),
    Column("cleared", Float, nullable=False),
)
# What models that the gateway starts needed; see `hosting.need`.
MODEL_NEED = _table(
    "model_need",
    _text("fingerprint", primary_key=True),
    Column("need", JSON, nullable=False),
    Column("changed", Float, nullable=False),
)
# API keys that are made at run time, their users and teams; see `accounts.records`. A digest is
# that of a secret, made with the secret of the one row of `account_state`.
API_KEY = _table(
    "api_key",
    _text("id", primary_key=True),
    Column("digest", String, nullable=False, unique=True),
    *_texts("shown", "created_by"),
    Column("alias", String, unique=True),
    Column("user_id", String, index=True),
    Column("team_id", String, index=True),
    Column("created", Float, nullable=False, index=True),
    *_columns(Float, "changed", "former_until"),
    Column("expires", Float),
    Column("blocked", Boolean, nullable=False),
    Column("former_digest", String, unique=True),
    *_columns(JSON, "rights", "metadata"),
)
ACCOUNT_USER = _table(
    "account_user",
    _text("id", primary_key=True),
    Column("email", String, unique=True),
    Column("alias", String),
    *_columns(Float, "created", "changed"),
    Column("blocked", Boolean, nullable=False),
    *_columns(JSON, "rights", "metadata"),
)
TEAM = _table(
    "account_team",
    _text("id", primary_key=True),
    Column("alias", String, unique=True),
    *_columns(Float, "created", "changed"),
    Column("blocked", Boolean, nullable=False),
    *_columns(JSON, "rights", "metadata"),
)
TEAM_MEMBER = _table(
    "account_team_member",
    _text("team_id", _of("account_team"), primary_key=True),
    _text("user_id", _of("account_user"), primary_key=True, index=True),
    _text("role"),
)
# Every change of a key, user or team, in order: `number` has no gaps. Rows are never changed.
ACCOUNT_CHANGE = _table(
    "account_change",
    _number("number", BigInteger),
    Column("at", Float, nullable=False),
    *_texts("actor", "action", "kind"),
    _text("subject", index=True),
    Column("details", JSON, nullable=False),
)
ACCOUNT_STATE = _table(
    "account_state",
    _number("id"),
    Column("number", BigInteger, nullable=False),
    Column("secret", LargeBinary, nullable=False),
)
# The ledger: one row for each request that asks a model. Times of the day are milliseconds since
# 1970, `blocks` the digests of the prompt's blocks; see `ledger_rows`.
LEDGER = _table(
    "ledger_row",
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("ended", BigInteger, nullable=False),
    *_texts("request", "key", "user", "team", "model", "backend", "api", "outcome", "client"),
    Column("slot", Integer, nullable=False),
    *_counts(),
    Column("seconds", Float, nullable=False),
    Column("blocks", LargeBinary, nullable=False),
    Index("ledger_row_time", "ended", "id"),
)
# Sums of ledger rows by hour, which are kept when the rows are deleted. `hour` is when it began, in
# milliseconds since 1970.
LEDGER_HOUR = _table(
    "ledger_hour",
    _number("hour", BigInteger),
    *_texts("key", "user", "team", "model", "api", primary_key=True),
    *_columns(BigInteger, "requests", "failed"),
    *_counts(),
)
# The last batch that each writer of the ledger has stored, so that none is stored twice.
LEDGER_WRITER = _table(
    "ledger_writer",
    _text("writer", primary_key=True),
    *_columns(BigInteger, "batch", "touched"),
)
# Alembic's own table, with the revision of the others.
ALEMBIC_VERSION = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def create_all(db: Connection, revision: str) -> None:
    """Create the tables, and the rows that are always there, also after an interruption."""
    metadata.create_all(db)
    if db.execute(select(ACCOUNT_STATE.c.id)).first() is None:
        db.execute(ACCOUNT_STATE.insert().values(id=1, number=0, secret=secrets.token_bytes(32)))
    ALEMBIC_VERSION.create(db, checkfirst=True)
    db.execute(ALEMBIC_VERSION.insert().values(version_num=revision))
