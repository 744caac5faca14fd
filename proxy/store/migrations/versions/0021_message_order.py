"""No two messages of a conversation have the same number"""

from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    # Two requests at once could give theirs the same; those conversations are numbered anew.
    op.execute(
        "update message set number = counted.place from (select id, row_number() over"
        " (partition by conversation_id order by number, created, id) as place"
        " from message) as counted where counted.id = message.id and conversation_id in (select"
        " conversation_id from message group by conversation_id, number having count(*) > 1)"
    )
    op.create_index("message_order", "message", ["conversation_id", "number"], unique=True)
    op.drop_index("ix_message_conversation_id", "message")
