"""What the models that the gateway starts needed"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "model_need",
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("need", sa.JSON(), nullable=False),
        sa.Column("changed", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint"),
    )
