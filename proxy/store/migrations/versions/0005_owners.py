"""Keys without a name are named by a digest of the secret, where they were numbered by place

Only the settings know which key had which number. The names are those of the first start of a
version that has this migration; it runs once, so that keys which change their place later take
nothing that belongs to others.
"""

import logging
import re

import sqlalchemy as sa
from alembic import context, op

revision = "0005"
down_revision = "0004"

OWNED = (
    "knowledge_base",
    "document",
    "job",
    "conversation",
    "feedback",
    "openai_file",
    "openai_vector_store",
    "openai_vector_store_file",
    "openai_file_batch",
)
# Names that keys without one had, by their position.
POSITION = re.compile(r"key-[0-9]+|.+:[0-9]+")
log = logging.getLogger("slotproxy.store")


def upgrade() -> None:
    connection = op.get_bind()
    renamed = context.config.attributes.get("renamed", {})
    left: set[str] = set()
    for name in OWNED:
        table = sa.table(name, sa.column("owner"))
        owners = connection.execute(sa.select(table.c.owner).distinct()).scalars()
        for owner in list(owners):
            if renamed.get(owner, owner) != owner:
                connection.execute(
                    table.update().where(table.c.owner == owner).values(owner=renamed[owner])
                )
                log.warning("data of %s in %s now belongs to %s", owner, name, renamed[owner])
            elif owner not in renamed and POSITION.fullmatch(owner):
                left.add(owner)
    for owner in sorted(left):
        log.warning(
            "data of %s was left unchanged: there is no unnamed key at that position. To claim"
            " it, give a key this name in --api-key-file",
            owner,
        )
