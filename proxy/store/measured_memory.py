"""What the models that the gateway starts needed, by a fingerprint of their command and files."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, insert, select

from .database import Database
from .tables import MODEL_NEED

MOST = 1000  # models; the oldest are deleted

_c = MODEL_NEED.c


class MeasuredMemory:
    def __init__(self, database: Database) -> None:
        self._db = database

    def recall(self, fingerprint: str) -> Mapping[str, Any] | None:
        row = self._db.first(select(_c.need).where(_c.fingerprint == fingerprint))
        return None if row is None else dict(row.need)

    def keep(self, fingerprint: str, need: Mapping[str, Any]) -> None:
        newest = select(_c.fingerprint).order_by(_c.changed.desc(), _c.fingerprint).limit(MOST - 1)
        with self._db.begin() as db:
            db.execute(delete(MODEL_NEED).where(_c.fingerprint == fingerprint))
            others = select(newest.subquery().c.fingerprint)
            db.execute(delete(MODEL_NEED).where(_c.fingerprint.not_in(others)))
            row = {"fingerprint": fingerprint, "need": dict(need), "changed": time.time()}
            db.execute(insert(MODEL_NEED).values(row))
