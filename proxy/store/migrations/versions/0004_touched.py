"""When the writer of an answer that grows gave its last sign"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("message", sa.Column("touched", sa.Float(), nullable=False, server_default="0"))
