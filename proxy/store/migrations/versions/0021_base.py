"""The tables of 0.2, which a new database gets from `tables` at once"""

revision = "0021"
down_revision = None


def upgrade() -> None:
    """Nothing: databases of older revisions are refused (`Database.upgrade`)."""
