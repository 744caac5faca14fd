"""Users in the database."""

from __future__ import annotations

import time

from sqlalchemy import insert, select

from .account_changes import Recorder
from .tables import ACCOUNT_USER

_c = ACCOUNT_USER.c


def ensure_user(changes: Recorder, user_id: str) -> None:
    """Make a user without bounds, unless there is one with this id."""
    if changes.db.execute(select(_c.id).where(_c.id == user_id)).first() is not None:
        return
    now = time.time()
    row = {"id": user_id, "created": now, "changed": now, "blocked": False}
    changes.db.execute(insert(ACCOUNT_USER).values(**row, rights={}, metadata={}))
    changes.record("create", "user", user_id, {})
