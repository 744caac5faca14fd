"""Batches of requests, and the results of their lines"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0011"

TOKENS = ("input", "cached", "output", "reasoning")
COUNTS = ("total", "completed", "failed")


def upgrade() -> None:
    texts = ("endpoint", "file_id", "window", "status", "model", "output_file", "error_file")
    op.create_table(
        "request_batch",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in texts),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("errors", sa.JSON(), nullable=False),
        sa.Column("times", sa.JSON(), nullable=False),
        *(sa.Column(f"{name}_tokens", sa.BigInteger(), nullable=False) for name in TOKENS),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in COUNTS),
        sa.Column("lasts", sa.Integer(), nullable=True),
        sa.Column("peer", sa.String(), nullable=False),
        sa.Column("writer", sa.String(), nullable=False),
        sa.Column("touched", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("request_batch_order", "request_batch", ["owner", "created", "id"])
    op.create_index("ix_request_batch_status", "request_batch", ["status"])
    op.create_table(
        "request_batch_result",
        sa.Column("batch_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("failed", sa.Boolean(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["request_batch.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("batch_id", "number"),
    )
