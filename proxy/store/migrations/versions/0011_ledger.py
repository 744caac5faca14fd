"""The ledger of requests, and its sums by hour"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

IDENTITY = ("key", "user", "team", "model")
TOKENS = ("prompt", "cached", "completion", "reasoning")
TIMES = ("queue_seconds", "prefill_seconds", "decode_seconds", "slot_seconds", "saved_seconds")


def upgrade() -> None:
    op.create_table(
        "ledger_row",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("ended", sa.BigInteger(), nullable=False),
        sa.Column("request", sa.String(), nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in IDENTITY),
        sa.Column("backend", sa.String(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("api", sa.String(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in TOKENS),
        *(sa.Column(name, sa.Float(), nullable=False) for name in (*TIMES, "seconds")),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("client", sa.String(), nullable=False),
        sa.Column("blocks", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ledger_row_time", "ledger_row", ["ended", "id"])
    op.create_table(
        "ledger_hour",
        sa.Column("hour", sa.BigInteger(), autoincrement=False, nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in (*IDENTITY, "api")),
        *(sa.Column(n, sa.BigInteger(), nullable=False) for n in ("requests", "failed", *TOKENS)),
        *(sa.Column(name, sa.Float(), nullable=False) for name in TIMES),
        sa.PrimaryKeyConstraint("hour", *IDENTITY, "api"),
    )
    op.create_table(
        "ledger_writer",
        sa.Column("writer", sa.String(), nullable=False),
        sa.Column("batch", sa.BigInteger(), nullable=False),
        sa.Column("touched", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("writer"),
    )
