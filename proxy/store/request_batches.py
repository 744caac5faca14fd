"""Batches of requests, and the results of their lines until the output files are written.

One process runs a batch at a time: its name is in the row, with a heartbeat, and it changes the row
only under that name. So a process that lost its batch stores nothing more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from msgspec.structs import asdict
from sqlalchemy import Connection, Update, delete, insert, select, update

from ..errors import NotFound
from . import records
from .database import Database, owned
from .file_store import PIECE, StoredFile, piece
from .quota import UNLIMITED, Quota, check_count
from .records import MOST, OPEN, UNCHECKED, RequestBatch, Result, Tokens, new_id
from .tables import BATCH_RESULT, CONTENTS, FILES, REQUEST_BATCH

MOST_OPEN = 100  # unfinished batches of a key
LEASE = 30.0  # seconds without a heartbeat after which a process on another host counts as dead
AT_ONCE = 64  # results read together
DROPPED = 1000  # results deleted together
_b, _r = REQUEST_BATCH.c, BATCH_RESULT.c


class RequestBatches:
    """Every call may raise StoreUnavailable. `writer` is the name of this process."""

    piece_size = PIECE

    def __init__(self, database: Database, quota: Quota = UNLIMITED) -> None:
        self._db = database
        self._quota = quota
        self.writer = records.new_name()
        self._turns: dict[str, int] = {}  # the number of each waiting key's last turn here
        self._turn = 0

    # for their owners

    def add(self, batch: RequestBatch) -> None:
        """Raises QuotaExceeded."""
        values = asdict(batch)
        with self._db.begin_for(batch.owner) as db:
            db.execute(insert(REQUEST_BATCH).values(writer="", touched=batch.created, **values))
            mine = _b.owner == batch.owner
            refusal = "an API key may have at most {} unfinished batches: wait, or cancel one"
            check_count(db, REQUEST_BATCH, MOST_OPEN, refusal, mine, _b.status.in_(OPEN))
            newest = select(_b.created).where(mine).order_by(_b.created.desc())
            last = newest.limit(1).offset(MOST - 1).scalar_subquery()
            over = _b.status.not_in(OPEN)
            db.execute(delete(REQUEST_BATCH).where(mine, over, _b.created < last))

    def get(self, owner: str, key: str) -> RequestBatch | None:
        query = select(REQUEST_BATCH).where(owned(REQUEST_BATCH, owner, key))
        return self._db.one(RequestBatch, query)

    def all(self, owner: str) -> list[RequestBatch]:
        """The batches of a key, the oldest first."""
        query = select(REQUEST_BATCH).where(_b.owner == owner).order_by(_b.created, _b.id)
        return self._db.records(RequestBatch, query)

    def cancel(self, owner: str, key: str, now: float) -> RequestBatch | None:
        """Cancel a batch that is not finished; return it, or None if there is none."""
        with self._db.begin() as db:
            begun = _b.status.in_(("validating", "in_progress"))
            running = update(REQUEST_BATCH).where(owned(REQUEST_BATCH, owner, key), begun)
            if db.execute(running.values(status="cancelling")).rowcount:
                _add_times(db, key, {"cancelling": now})
        return self.get(owner, key)

    def clear(self, owner: str) -> int:
        return self._db.change(delete(REQUEST_BATCH).where(_b.owner == owner))

    # for the process that runs them

    def claim(self, now: float) -> RequestBatch | None:
        """Take an unfinished batch that no living process runs. Keys take turns; batches whose
        files are not checked come first, then the one that has waited longest."""
        columns = _b.id, _b.owner, _b.status, _b.writer, _b.touched
        rows = self._db.rows(select(*columns).where(_b.status.in_(OPEN)).order_by(_b.touched))
        self._turns = {row.owner: self._turns.get(row.owner, 0) for row in rows}
        for row in sorted(rows, key=lambda row: (self._turns[row.owner], row.status != UNCHECKED)):
            if row.writer not in ("", self.writer) and not self._db.has_lost_writer(
                row, self.writer, now, LEASE
            ):
                continue
            same = (_b.id == row.id, _b.writer == row.writer, _b.touched == row.touched)
            claim = update(REQUEST_BATCH).where(*same).values(writer=self.writer, touched=now)
            if self._db.change(claim):
                self._turn += 1
                self._turns[row.owner] = self._turn
                return self._db.one(RequestBatch, select(REQUEST_BATCH).where(_b.id == row.id))
        return None

    def others_wait(self) -> bool:
        """Whether a batch that no process runs is unfinished."""
        waits = select(_b.id).where(_b.status.in_(OPEN), _b.writer == "")
        return self._db.first(waits) is not None

    def check_quota(self, owner: str, size: int) -> float:
        """Check the quota for these bytes and a file; return how many bytes are left then."""
        with self._db.begin() as db:
            self._quota.check_files(db, owner, more=1)
            return self._quota.check_bytes(db, owner, size)

    def beat(self, key: str, now: float) -> str:
        """Send a heartbeat. Returns the status of the batch, "" if this process lost it."""
        if not self._change(key, touched=now):
            return ""
        row = self._db.first(select(_b.status).where(_b.id == key))
        return "" if row is None else str(row.status)

    def release(self, key: str, now: float) -> None:
        self._change(key, writer="", touched=now)

    def begin(self, key: str, total: int, model: str, now: float) -> None:
        """Record that all lines are valid and are asked now, unless the batch is cancelled."""
        with self._db.begin() as db:
            db.execute(self._mine(key).values(total=total, model=model))
            valid = self._mine(key).where(_b.status == "validating")
            if db.execute(valid.values(status="in_progress")).rowcount:
                _add_times(db, key, {"in_progress": now})

    def close(
        self, key: str, status: str, times: Mapping[str, float], errors: Sequence[Any] = ()
    ) -> bool:
        """Record a status after the lines are done. False if this process lost the batch."""
        with self._db.begin() as db:
            values: dict[str, Any] = {"status": status}
            if errors:
                values["errors"] = list(errors)
            if status not in OPEN:
                values["writer"] = ""
            if not db.execute(self._mine(key).values(values)).rowcount:
                return False
            _add_times(db, key, times)
        return True

    def add_results(self, key: str, results: Sequence[Result]) -> bool:
        """Store results and count them, in one step. False if this process lost the batch."""
        failed = sum(result.failed for result in results)
        counts = {"failed": failed, "completed": len(results) - failed}
        for name in Tokens._fields:
            counts[f"{name}_tokens"] = sum(getattr(result.tokens, name) for result in results)
        counted = {name: _b[name] + count for name, count in counts.items()}
        rows = [{"batch_id": key, **asdict(result)} for result in results]
        for row in rows:
            del row["tokens"]
        with self._db.begin() as db:
            if not db.execute(self._mine(key).values(counted)).rowcount:
                return False
            db.execute(insert(BATCH_RESULT), rows)
        return True

    def done(self, key: str) -> Iterator[int]:
        """The numbers of the lines that have results, in order."""
        query = select(_r.number).where(_r.batch_id == key)
        return (row.number for row in self._db.in_parts(query, _r.number, DROPPED))

    def write_file(self, batch: RequestBatch, *, failed: bool, now: float) -> bool:
        """Write the results that have failed, or the others, to a new file of the owner, in place
        of that of a killed process. False if there are none. Raises NotFound if it lost the batch,
        and QuotaExceeded."""
        column = _b.error_file if failed else _b.output_file
        query = select(_r.number, _r.data).where(_r.batch_id == batch.id, _r.failed == failed)
        parts = (row.data for row in self._db.in_parts(query, _r.number, AT_ONCE))
        if (first := next(parts, None)) is None:
            return False
        file = StoredFile(
            file_id=new_id("file-"),
            filename=f"{batch.id}_{'errors' if failed else 'output'}.jsonl",
            purpose="batch_output",
            size=0,
            created=now,
            expires=None if batch.lasts is None else now + batch.lasts,
        )
        row = {"owner": batch.owner, **asdict(file)}
        with self._db.begin_for(batch.owner) as db:
            before = db.execute(select(column).where(_b.id == batch.id)).scalar()
            changed = self._mine(batch.id).values({column: file.file_id, _b.touched: now})
            if not db.execute(changed).rowcount:
                raise NotFound(f"the batch {batch.id} is run by another process")
            if before:
                db.execute(delete(FILES).where(FILES.c.file_id == before))
            db.execute(insert(FILES).values(row))
            self._quota.check_files(db, batch.owner)
        size = 0
        for number, data in enumerate(_in_pieces(chain((first,), parts))):
            row = {"file_id": file.file_id, "number": number, "data": data}
            self._db.change(insert(CONTENTS).values(row))  # NotFound if the file was deleted
            size += len(data)
        self._db.change(update(FILES).where(FILES.c.file_id == file.file_id).values(size=size))
        return True

    def drop_results(self) -> None:
        """Delete the results of finished batches: their files have them."""
        finished = select(_b.id).where(_b.status.not_in(OPEN))
        left = select(_r.batch_id, _r.number).where(_r.batch_id.in_(finished)).limit(DROPPED)
        while rows := self._db.rows(left):
            for key in {row.batch_id for row in rows}:
                numbers = [row.number for row in rows if row.batch_id == key]
                span = _r.number.between(min(numbers), max(numbers))
                self._db.change(delete(BATCH_RESULT).where(_r.batch_id == key, span))

    def piece(self, file_id: str, number: int) -> bytes | None:
        """A piece of an input file; None after the last, and if the file was deleted."""
        return piece(self._db, CONTENTS, file_id, number)

    def _mine(self, key: str) -> Update:
        """A change of a batch that this process runs."""
        return update(REQUEST_BATCH).where(_b.id == key, _b.writer == self.writer)

    def _change(self, key: str, **values: Any) -> bool:
        return self._db.change(self._mine(key).values(values)) > 0


def _add_times(db: Connection, key: str, times: Mapping[str, float]) -> None:
    before = db.execute(select(_b.times).where(_b.id == key)).scalar_one()
    db.execute(update(REQUEST_BATCH).where(_b.id == key).values(times={**before, **times}))


def _in_pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of PIECE bytes; the last may be shorter."""
    held = bytearray()
    for part in parts:
        held += part
        while len(held) > PIECE:
            yield bytes(held[:PIECE])
            del held[:PIECE]
    if held:
        yield bytes(held)
