"""How many bytes were asked in a conversation, for the quota of its key"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column(
        "conversation", sa.Column("size", sa.BigInteger(), nullable=False, server_default="0")
    )
    # Characters, where new questions count bytes: near enough for existing rows.
    op.execute(
        "update conversation set size = coalesce((select"
        " sum(length(content) + length(cast(extra as text))) from message"
        " where conversation_id = conversation.id and role = 'user'), 0)"
    )
