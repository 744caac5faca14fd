"""API keys made at run time, their users and teams, and a record of each change"""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_table(
        "api_key",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("digest", sa.String(), nullable=False, unique=True),
        sa.Column("shown", sa.String(), nullable=False),
        sa.Column("alias", sa.String(), unique=True),
        sa.Column("user_id", sa.String()),
        sa.Column("team_id", sa.String()),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("changed", sa.Float(), nullable=False),
        sa.Column("expires", sa.Float()),
        sa.Column("blocked", sa.Boolean(), nullable=False),
        sa.Column("former_digest", sa.String(), unique=True),
        sa.Column("former_until", sa.Float(), nullable=False),
        sa.Column("rights", sa.JSON(), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
    )
    for name in ("user_id", "team_id", "created"):
        op.create_index(f"ix_api_key_{name}", "api_key", [name])
    for table, extra in (
        ("account_user", [sa.Column("email", sa.String(), unique=True)]),
        ("account_team", []),
    ):
        op.create_table(
            table,
            sa.Column("id", sa.String(), primary_key=True),
            *extra,
            sa.Column("alias", sa.String(), unique=table == "account_team"),
            sa.Column("created", sa.Float(), nullable=False),
            sa.Column("changed", sa.Float(), nullable=False),
            sa.Column("blocked", sa.Boolean(), nullable=False),
            sa.Column("rights", sa.JSON(), nullable=False),
            sa.Column("metadata", sa.JSON(), nullable=False),
        )
    op.create_table(
        "account_team_member",
        sa.Column(
            "team_id",
            sa.String(),
            sa.ForeignKey("account_team.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column(
            "user_id",
            sa.String(),
            sa.ForeignKey("account_user.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("role", sa.String(), nullable=False),
    )
    op.create_index("ix_account_team_member_user_id", "account_team_member", ["user_id"])
    op.create_table(
        "account_change",
        sa.Column("number", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
    )
    op.create_index("ix_account_change_subject", "account_change", ["subject"])
    state = op.create_table(
        "account_state",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
    )
    op.bulk_insert(state, [{"id": 1, "number": 0, "secret": secrets.token_bytes(32)}])
