"""The browser and address of each sign-in session"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    for name in ("agent", "peer"):
        op.add_column("session", sa.Column(name, sa.String(), nullable=False, server_default=""))
