"""Stored responses, which had a file of their own before"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "stored_response",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("response", sa.LargeBinary(), nullable=False),
        sa.Column("input_items", sa.LargeBinary(), nullable=False),
        sa.Column("writer", sa.String(), nullable=False),
        sa.Column("touched", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", "owner"),
    )
    op.create_index("stored_response_order", "stored_response", ["owner", "created", "id", "size"])
    op.create_table(
        "stored_response_owner",
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("cleared", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("owner"),
    )
