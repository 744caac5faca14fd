"""Vectors of texts are no longer kept beside the index"""

from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    op.execute("drop table if exists text_vector")
