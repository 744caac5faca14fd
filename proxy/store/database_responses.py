"""Stored responses in the database.

The row of its owner is the lock under which a response is added and data are cleared. A dead writer
on this host is known by its pid; one of another host after LEASE silent seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

from sqlalchemy import Connection, Delete, bindparam, delete, func, insert, or_, select, update

from . import records
from .database import Database, insert_into, owned
from .responses import MAX_BYTES, MemoryResponses, Stored
from .tables import RESPONSE, RESPONSE_OWNER

LEASE = 30.0  # seconds without a sign of life after which a writer on another host counts as dead
_c = RESPONSE.c


class DatabaseResponses:
    """Like `MemoryResponses`: at most `most` responses and `most_bytes` a key."""

    shared = True

    def __init__(
        self,
        database: Database,
        most: int,
        most_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = database
        self._most = most
        self._most_bytes = most_bytes
        self._clock = clock
        self._name = records.new_name()
        self._open: set[tuple[str, str]] = set()  # being made by this process

    def put(
        self,
        owner: str,
        key: str,
        created: float,
        value: Stored,
        begun: float | None = None,
        *,
        making: bool = False,
    ) -> None:
        size = len(value.response) + len(value.items)
        if making:
            self._open.add((owner, key))
        if size > self._most_bytes:
            return
        row = {"id": key, "owner": owner, "created": created, "size": size}
        row |= {"response": value.response, "input_items": value.items}
        row |= {"writer": self._name if making else "", "touched": self._clock() if making else 0.0}
        try:
            with self._db.begin() as db:
                cleared = _lock(db, owner)
                # A time in the future is of a clock that was set back since.
                if begun is not None and begun <= cleared <= self._clock():
                    return
                db.execute(delete(RESPONSE).where(owned(RESPONSE, owner, key)))
                db.execute(insert(RESPONSE).values(row))
                self._make_room(db, owner, key)
        except BaseException:
            self._open.discard((owner, key))
            raise

    def change(
        self, owner: str, key: str, edit: Callable[[Stored], Stored], created: float | None = None
    ) -> Stored | None:
        with self._db.begin() as db:
            _lock(db, owner)
            mine = owned(RESPONSE, owner, key)
            row = db.execute(select(RESPONSE).where(mine)).first()
            if row is None or row.writer:
                return None
            changed = edit(Stored(row.response, row.input_items))
            size = len(changed.response) + len(changed.items)
            values = {"response": changed.response, "input_items": changed.items, "size": size}
            values |= {} if created is None else {"created": created}
            db.execute(update(RESPONSE).where(mine).values(values))
            self._make_room(db, owner, key)
        return changed

    def change_open(self, owner: str, key: str, response: bytes, *, over: bool) -> bool:
        size = len(response) + func.length(_c.input_items)
        change = update(RESPONSE).where(owned(RESPONSE, owner, key), _c.writer != "")
        change = change.values(response=response, size=size, **({"writer": ""} if over else {}))
        return self._db.change(change) > 0

    def close_open(self, owner: str, key: str) -> None:
        self._open.discard((owner, key))

    def beat(self) -> list[tuple[str, str]]:
        mine = list(self._open)
        made_here = _c.id.in_([key for _, key in mine]) & (_c.writer == self._name)
        with self._db.begin() as db:
            db.execute(update(RESPONSE).where(made_here).values(touched=self._clock()))
            rows = db.execute(select(_c.owner, _c.id).where(made_here))
            still_open = {(row.owner, row.id) for row in rows}
        return [name for name in mine if name not in still_open and name in self._open]

    def get(self, owner: str, key: str) -> Stored | None:
        row = self._db.first(select(RESPONSE).where(owned(RESPONSE, owner, key)))
        if row is None:
            return None
        lost = bool(row.writer) and self._db.has_lost_writer(row, self._name, self._clock(), LEASE)
        if row.writer == self._name:
            lost = (owner, key) not in self._open
        return Stored(row.response, row.input_items, lost)

    def ids(self, owner: str) -> list[str]:
        query = select(_c.id).where(_c.owner == owner).order_by(_c.created, _c.id)
        return [row.id for row in self._db.rows(query)]

    def clear(self, owner: str) -> int:
        cleared = update(RESPONSE_OWNER).filter_by(owner=owner).values(cleared=self._clock())
        with self._db.begin() as db:
            _lock(db, owner)
            db.execute(cleared)
            count = db.execute(delete(RESPONSE).where(_c.owner == owner)).rowcount
        self._db.purge()
        return count

    def delete(self, owner: str, key: str) -> bool:
        return self._db.change(delete(RESPONSE).where(owned(RESPONSE, owner, key))) > 0

    def _make_room(self, db: Connection, owner: str, newest: str) -> None:
        values = {"of": owner, "newest": newest, "most": self._most, "bytes": self._most_bytes}
        db.execute(_drop_beyond(), values)


ResponseStore = MemoryResponses | DatabaseResponses


@cache  # it is full of cycles: made for each response, they would wait for the garbage collector
def _drop_beyond() -> Delete:
    """Deletes the oldest responses of an owner beyond the `most`, and beyond so many `bytes`."""
    order = (_c.created.desc(), (_c.id == bindparam("newest")).desc(), _c.id)
    mine = _c.owner == bindparam("of")
    number = func.row_number().over(order_by=order).label("number")
    size = func.sum(_c.size).over(order_by=order, rows=(None, 0)).label("size")
    counted = select(_c.id, number, size).where(mine).subquery().c
    beyond = or_(counted.number > bindparam("most"), counted.size > bindparam("bytes"))
    return delete(RESPONSE).where(mine, _c.id.in_(select(counted.id).where(beyond)))


def _lock(db: Connection, owner: str) -> float:
    """Keep others from adding for this owner or clearing; return when that was cleared last."""
    cleared = RESPONSE_OWNER.c.cleared
    row = insert_into(RESPONSE_OWNER, db).values(owner=owner, cleared=0.0)
    row = row.on_conflict_do_update(index_elements=["owner"], set_={"cleared": cleared})
    last: float = db.execute(row.returning(cleared)).scalar_one()
    return last
