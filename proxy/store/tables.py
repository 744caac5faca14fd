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

metadata = MetaData()


def _text(name: str, *args: Any, **how: Any) -> Column[str]:
    return Column(name, String, *args, nullable=False, **how)


def _of(table: str) -> ForeignKey:
    return ForeignKey(f"{table}.id", ondelete="CASCADE")


def _pieces() -> tuple[Column[Any], ...]:
    """Return the columns of a table of pieces; see `blobs`."""
    number = Column("number", Integer, primary_key=True, autoincrement=False)
    return number, Column("data", LargeBinary, nullable=False)


def _counts() -> tuple[Column[Any], ...]:
    """Return the columns of the ledger that are added up: tokens and seconds."""
    tokens = ("prompt", "cached", "completion", "reasoning")
    times = ("queue", "prefill", "decode", "slot", "saved")
    return (
        *(Column(name, BigInteger, nullable=False) for name in tokens),
        *(Column(f"{name}_seconds", Float, nullable=False) for name in times),
    )


BASE = Table(
    "knowledge_base",
    metadata,
    _text("id", primary_key=True),
    _text("owner", index=True),
    _text("name"),
    Column("info", Text, nullable=False),
    _text("embedding_model"),
    Column("created", Float, nullable=False),
    Column("temporary", Boolean, nullable=False),
    Column("expires", Float),
)
DOCUMENT = Table(
    "document",
    metadata,
    _text("id", primary_key=True),
    _text("base_id", _of("knowledge_base"), index=True),
    _text("owner"),
    _text("filename"),
    Column("size", Integer, nullable=False),
    _text("status", index=True),
    Column("error", Text, nullable=False),
    Column("done", Float, nullable=False),
    Column("chunks", Integer, nullable=False),
    Column("created", Float, nullable=False),
    Column("chunk_size", Integer, nullable=False),
    Column("chunk_overlap", Integer, nullable=False),
    _text("job_id", index=True),
    _text("reader"),
    Column("beat", Float, nullable=False),
)
ORIGINAL = Table(
    "document_piece", metadata, _text("document_id", _of("document"), primary_key=True), *_pieces()
)
CHUNK = Table(
    "chunk",
    metadata,
    _text("id", primary_key=True),
    _text("document_id", _of("document")),
    Column("number", Integer, nullable=False),
    Column("text", Text, nullable=False),
    Column("place", Text, nullable=False),
    Index("chunk_order", "document_id", "number"),
)
JOB = Table(
    "job",
    metadata,
    _text("id", primary_key=True),
    _text("base_id", _of("knowledge_base"), index=True),
    _text("owner"),
    _text("kind"),
    Column("total", Integer, nullable=False),
    Column("cancelled", Boolean, nullable=False),
    Column("created", Float, nullable=False),
)
CONVERSATION = Table(
    "conversation",
    metadata,
    _text("id", primary_key=True),
    _text("owner"),
    Column("title", Text, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("created", Float, nullable=False),
    Column("changed", Float, nullable=False),
    Column("size", BigInteger, nullable=False, server_default="0"),
    Index("conversation_recent", "owner", "changed"),
)
MESSAGE = Table(
    "message",
    metadata,
    _text("id", primary_key=True),
    _text("conversation_id", _of("conversation")),
    Column("parent_id", String),
    Column("number", Integer, nullable=False),
    _text("role"),
    Column("content", Text, nullable=False),
    Column("reasoning", Text, nullable=False),
    _text("status"),
    Column("extra", JSON, nullable=False),
    Column("created", Float, nullable=False),
    Column("touched", Float, nullable=False, server_default="0"),
    Index("message_order", "conversation_id", "number", unique=True),
)
FEEDBACK = Table(
    "feedback",
    metadata,
    _text("owner", primary_key=True),
    _text("message_id", primary_key=True),
    Column("score", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created", Float, nullable=False),
)
# Data of OpenAI's files and vector stores that bases and documents do not have.
FILES = Table(
    "openai_file",
    metadata,
    _text("file_id", primary_key=True),
    _text("owner", index=True),
    _text("filename"),
    _text("purpose"),
    Column("size", Integer, nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float),
)
CONTENTS = Table(
    "openai_file_piece",
    metadata,
    _text("file_id", ForeignKey("openai_file.file_id", ondelete="CASCADE"), primary_key=True),
    *_pieces(),
)
VECTOR_STORES = Table(
    "openai_vector_store",
    metadata,
    _text("base_id", _of("knowledge_base"), primary_key=True),
    _text("owner"),
    Column("metadata", JSON, nullable=False),
    Column("lasts", Integer),
    Column("active", Float, nullable=False),
)
ATTACHED = Table(
    "openai_vector_store_file",
    metadata,
    _text("base_id", _of("knowledge_base"), primary_key=True),
    _text("file_id", primary_key=True, index=True),
    _text("owner"),
    _text("document_id"),
    _text("batch_id"),
    Column("attributes", JSON, nullable=False),
    _text("error"),
    Column("tokens", Integer, nullable=False),
    Column("overlap", Integer, nullable=False),
    Column("created", Float, nullable=False),
)
BATCHES = Table(
    "openai_file_batch",
    metadata,
    _text("batch_id", primary_key=True),
    _text("base_id", _of("knowledge_base"), index=True),
    _text("owner"),
    Column("created", Float, nullable=False),
    Column("cancelled", Boolean, nullable=False),
)
# Batches of requests (/v1/batches). `times` are those of `apis.batches`, `peer` is the address
# that made the batch. `writer` names the process that runs it, "" for none, and `touched` is its
# last sign of life, or when it gave the batch back.
REQUEST_BATCH = Table(
    "request_batch",
    metadata,
    _text("id", primary_key=True),
    _text("owner"),
    Column("created", Float, nullable=False),
    _text("endpoint"),
    _text("file_id"),
    _text("window"),
    _text("status", index=True),
    _text("model"),
    _text("output_file"),
    _text("error_file"),
    Column("metadata", JSON, nullable=False),
    Column("errors", JSON, nullable=False),
    Column("times", JSON, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("total", Integer, nullable=False),
    Column("completed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("lasts", Integer),
    _text("peer"),
    _text("writer"),
    Column("touched", Float, nullable=False),
    Index("request_batch_order", "owner", "created", "id"),
)
# The lines of output and error files, by the number of the input line, until the files are written.
BATCH_RESULT = Table(
    "request_batch_result",
    metadata,
    _text("batch_id", _of("request_batch"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("failed", Boolean, nullable=False),
    Column("data", LargeBinary, nullable=False),
)
# Open sign-in sessions of the pages. The id is a digest of the cookie's content.
SESSION = Table(
    "session",
    metadata,
    _text("id", primary_key=True),
    _text("owner", index=True),
    Column("created", Float, nullable=False),
    _text("agent", server_default=""),
    _text("peer", server_default=""),
)
# Of /v1/responses: a response, and the items that it was made of, as JSON; `size` is of both, in
# bytes. While it is being made, `writer` names the process, and `touched` is its last sign of life.
# The index has all that is needed to find the oldest ones beyond the bounds of a key.
RESPONSE = Table(
    "stored_response",
    metadata,
    _text("id", primary_key=True),
    _text("owner", primary_key=True),
    Column("created", Float, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("input_items", LargeBinary, nullable=False),
    _text("writer"),
    Column("touched", Float, nullable=False),
    Index("stored_response_order", "owner", "created", "id", "size"),
)
RESPONSE_OWNER = Table(
    "stored_response_owner",
    metadata,
    _text("owner", primary_key=True),
    Column("cleared", Float, nullable=False),
)
# What models that the gateway starts needed; see `hosting.need`.
MODEL_NEED = Table(
    "model_need",
    metadata,
    _text("fingerprint", primary_key=True),
    Column("need", JSON, nullable=False),
    Column("changed", Float, nullable=False),
)
# Vectors of texts that were indexed before; see `text_vectors`. The index has all that is needed to
# find the longest unused ones.
TEXT_VECTOR = Table(
    "text_vector",
    metadata,
    _text("owner", primary_key=True),
    Column("digest", LargeBinary, primary_key=True),
    Column("vector", LargeBinary, nullable=False),
    Column("size", Integer, nullable=False),
    Column("used", Float, nullable=False),
    Index("text_vector_order", "used", "owner", "digest", "size"),
)
# API keys that are made at run time, their users and teams; see `accounts.records`. A digest is
# that of a secret, made with the secret of the one row of `account_state`.
API_KEY = Table(
    "api_key",
    metadata,
    _text("id", primary_key=True),
    Column("digest", String, nullable=False, unique=True),
    _text("shown"),
    Column("alias", String, unique=True),
    Column("user_id", String, index=True),
    Column("team_id", String, index=True),
    Column("created", Float, nullable=False, index=True),
    _text("created_by"),
    Column("changed", Float, nullable=False),
    Column("expires", Float),
    Column("blocked", Boolean, nullable=False),
    Column("former_digest", String, unique=True),
    Column("former_until", Float, nullable=False),
    Column("rights", JSON, nullable=False),
    Column("metadata", JSON, nullable=False),
)
ACCOUNT_USER = Table(
    "account_user",
    metadata,
    _text("id", primary_key=True),
    Column("email", String, unique=True),
    Column("alias", String),
    Column("created", Float, nullable=False),
    Column("changed", Float, nullable=False),
    Column("blocked", Boolean, nullable=False),
    Column("rights", JSON, nullable=False),
    Column("metadata", JSON, nullable=False),
)
TEAM = Table(
    "account_team",
    metadata,
    _text("id", primary_key=True),
    Column("alias", String, unique=True),
    Column("created", Float, nullable=False),
    Column("changed", Float, nullable=False),
    Column("blocked", Boolean, nullable=False),
    Column("rights", JSON, nullable=False),
    Column("metadata", JSON, nullable=False),
)
TEAM_MEMBER = Table(
    "account_team_member",
    metadata,
    _text("team_id", _of("account_team"), primary_key=True),
    _text("user_id", _of("account_user"), primary_key=True, index=True),
    _text("role"),
)
# Every change of a key, user or team, in order: `number` has no gaps. Rows are never changed.
ACCOUNT_CHANGE = Table(
    "account_change",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    _text("actor"),
    _text("action"),
    _text("kind"),
    _text("subject", index=True),
    Column("details", JSON, nullable=False),
)
ACCOUNT_STATE = Table(
    "account_state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
    Column("secret", LargeBinary, nullable=False),
)
# The ledger: one row for each request that asks a model. Times of the day are milliseconds since
# 1970, `blocks` the digests of the prompt's blocks; see `ledger_rows`.
LEDGER = Table(
    "ledger_row",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("ended", BigInteger, nullable=False),
    _text("request"),
    _text("key"),
    _text("user"),
    _text("team"),
    _text("model"),
    _text("backend"),
    Column("slot", Integer, nullable=False),
    _text("api"),
    *_counts(),
    Column("seconds", Float, nullable=False),
    _text("outcome"),
    _text("client"),
    Column("blocks", LargeBinary, nullable=False),
    Index("ledger_row_time", "ended", "id"),
)
# Sums of ledger rows by hour, which are kept when the rows are deleted. `hour` is when it began, in
# milliseconds since 1970.
LEDGER_HOUR = Table(
    "ledger_hour",
    metadata,
    Column("hour", BigInteger, primary_key=True, autoincrement=False),
    _text("key", primary_key=True),
    _text("user", primary_key=True),
    _text("team", primary_key=True),
    _text("model", primary_key=True),
    _text("api", primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    *_counts(),
)
# The last batch that each writer of the ledger has stored, so that none is stored twice.
LEDGER_WRITER = Table(
    "ledger_writer",
    metadata,
    _text("writer", primary_key=True),
    Column("batch", BigInteger, nullable=False),
    Column("touched", BigInteger, nullable=False),
)
# Alembic's own table, with the revision of the others.
ALEMBIC_VERSION = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def create_all(db: Connection, revision: str) -> None:
    """Create the tables, and the rows that are always there; also what is missing of them after
    an interruption."""
    metadata.create_all(db)
    if db.execute(select(ACCOUNT_STATE.c.id)).first() is None:
        db.execute(ACCOUNT_STATE.insert().values(id=1, number=0, secret=secrets.token_bytes(32)))
    ALEMBIC_VERSION.create(db, checkfirst=True)
    db.execute(ALEMBIC_VERSION.insert().values(version_num=revision))
