"""Vectors of texts, for rebuilt knowledge bases"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0018"


def upgrade() -> None:
    op.create_table(
        "text_vector",
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("used", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "digest"),
    )
    op.create_index("text_vector_order", "text_vector", ["used", "owner", "digest", "size"])
