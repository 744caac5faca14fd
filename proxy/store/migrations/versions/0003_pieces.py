"""Files in pieces, of 256 kB at most"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

PIECE = 256 << 10  # bytes
# Tables of files, tables of their pieces, and the columns with the owning row's id.
MOVED = (
    ("document_original", "id", "document_piece", "document_id", "document.id"),
    ("openai_file_content", "file_id", "openai_file_piece", "file_id", "openai_file.file_id"),
)


def upgrade() -> None:
    for whole, key, pieces, whose, parent in MOVED:
        op.create_table(
            pieces,
            sa.Column(whose, sa.String(), nullable=False),
            sa.Column("number", sa.Integer(), nullable=False),
            sa.Column("data", sa.LargeBinary(), nullable=False),
            sa.ForeignKeyConstraint([whose], [parent], ondelete="CASCADE"),
            sa.PrimaryKeyConstraint(whose, "number"),
        )
        # Copy within the database, piece by piece, so that no file is in memory whole.
        db = op.get_bind()
        cut = sa.text(
            f"insert into {pieces} ({whose}, number, data)"
            f" select {key}, :number, substr(data, :first, {PIECE}) from {whole}"
            f" where {key} = :key"
        )
        for name, size in db.execute(sa.text(f"select {key}, length(data) from {whole}")).all():
            for number, first in enumerate(range(1, size + 1, PIECE)):
                db.execute(cut, {"number": number, "first": first, "key": name})
        op.drop_table(whole)
