"""The ledger in the database: a row for each request, and sums by hour that outlive the rows. Both
are written in one transaction, and added to in the database, so any process may write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from itertools import chain
from typing import Any, TypeVar

from msgspec.structs import astuple
from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    Table,
    and_,
    case,
    delete,
    func,
    or_,
    select,
)

from .database import Database, insert_into, record
from .ledger_rows import (
    CANCELLED,
    COUNTED,
    DAY,
    HOUR,
    HOUR_COLUMNS,
    OK,
    SPAN,
    SUMMED,
    LedgerGroup,
    LedgerRow,
    LedgerSums,
    hour_sums,
)
from .measures import Counts
from .tables import LEDGER, LEDGER_HOUR, LEDGER_MEASURE, LEDGER_WRITER

T = TypeVar("T")
PAGE = 1000  # rows read or deleted in one transaction
AT_ONCE = 64  # rows added by one statement, a power of two
# Widths of measures, and for how long they are kept.
MEASURED = {SPAN: 2 * HOUR, HOUR: 48 * HOUR, DAY: 32 * DAY}
FORGOTTEN = 86_400_000  # milliseconds after which a writer without new rows is forgotten

_c = LEDGER.c
_hour = LEDGER_HOUR.c
_KINDS: dict[str, Any] = {name: float if name.endswith("_seconds") else int for name in COUNTED}


class Ledger:
    def __init__(self, database: Database) -> None:
        self._db = database

    def write(
        self,
        writer: str,
        batch: int,
        rows: Sequence[LedgerRow],
        measured: Mapping[int, Counts] | None = None,
    ) -> bool:
        """Store a batch of rows, and what was `measured` by the span in seconds. False if it was
        stored before. Batches of a writer ascend."""
        measures: Counter[tuple[int, int, str, int]] = Counter()
        for second, counts in (measured or {}).items():
            for width in MEASURED:
                at = 1000 * second - 1000 * second % width
                for key, count in counts.items():
                    measures[width, at, *key] += count
        # All writers lock rows in the same order.
        spans = [(*key, count) for key, count in sorted(measures.items())]
        with self._db.begin() as db:
            note = {"writer": writer, "batch": batch, "touched": rows[-1].ended}
            if db.execute(self._begin_batch, note).first() is None:
                return False
            _insert(db, LEDGER, LedgerRow.__struct_fields__, [*map(astuple, rows)])
            # Last, since other writers wait for these rows until the commit.
            _insert(db, LEDGER_HOUR, HOUR_COLUMNS, hour_sums(rows), COUNTED)
            _insert(db, LEDGER_MEASURE, tuple(LEDGER_MEASURE.c.keys()), spans, ("count",))
        return True

    @cached_property
    def _begin_batch(self) -> Executable:
        """The statement that notes a batch. It returns no row if that is stored already. Made once:
        `excluded` copies all columns of a table, in reference cycles."""
        added = insert_into(LEDGER_WRITER, self._db.engine)
        new = added.on_conflict_do_update(
            index_elements=["writer"],
            set_={"batch": added.excluded.batch, "touched": added.excluded.touched},
            where=LEDGER_WRITER.c.batch < added.excluded.batch,
        )
        returning: Executable = new.returning(LEDGER_WRITER.c.batch)
        return returning

    def measures(self, width: int, begin: int, end: int) -> dict[int, Counts]:
        """The counts from `begin` to before `end`, by spans of this width, one of MEASURED."""
        c = LEDGER_MEASURE.c
        query = select(c.at, c.name, c.bucket, c["count"])
        chosen = query.where(c.width == width, c.at >= begin, c.at < end)
        counts: dict[int, Counts] = {}
        for at, name, bucket, count in map(tuple, self._db.rows(chosen)):
            counts.setdefault(at, Counter())[name, bucket] = count
        return counts

    def prune_measures(self, now: int) -> None:
        """Delete what was measured too long before `now`."""
        c = LEDGER_MEASURE.c
        old = (and_(c.width == width, c.at < now - age) for width, age in MEASURED.items())
        self._db.change(delete(LEDGER_MEASURE).where(or_(*old)))

    def prune(self, before: int) -> int:
        """Delete at most PAGE rows that ended before this time. Returns how many."""
        oldest = select(_c.id).where(_c.ended < before).order_by(_c.ended, _c.id).limit(PAGE)
        with self._db.begin() as db:
            db.execute(delete(LEDGER_WRITER).where(LEDGER_WRITER.c.touched < before - FORGOTTEN))
            return db.execute(delete(LEDGER).where(_c.id.in_(oldest.scalar_subquery()))).rowcount

    def groups(
        self,
        begin: int,
        end: int,
        *,
        width: int = 0,
        by: Sequence[str] = (),
        only: Mapping[str, Sequence[str]] | None = None,
        limit: int = PAGE,
        largest: bool = False,
    ) -> Sequence[LedgerGroup]:
        """The sums of the requests from `begin` to before `end`, in buckets of `width` milliseconds
        (0: a single one), grouped by some of DIMENSIONS and `tags`. `only`: the allowed values of
        dimensions. `largest`: the `limit` groups with the most tokens, the largest first. Widths of
        whole hours are answered from the sums by hour; others, and tags, need the rows, which are
        deleted after a time."""
        has_rows_only = width % HOUR or "tags" in by
        table, time = (LEDGER, _c.ended) if has_rows_only else (LEDGER_HOUR, _hour.hour)
        bucket = (time - time % width if width else func.min(time)).label("bucket")
        columns = [table.c[name] for name in by]
        counts = [func.sum(table.c[name]).label(name) for name in SUMMED]
        counts.append(func.max(time).label("last"))
        if table is LEDGER:
            failed = case((_c.outcome.in_((OK, CANCELLED)), 0), else_=1)
            counts += [func.count().label("requests"), func.sum(failed).label("failed")]
        else:
            counts += [func.sum(_hour[name]).label(name) for name in ("requests", "failed")]
        chosen = [table.c[name].in_(values) for name, values in (only or {}).items()]
        order: list[Any] = ["bucket", *columns]
        if largest:
            order = [func.sum(table.c.prompt + table.c.completion).desc(), *order]
        query = (
            select(bucket, *columns, *counts)
            .where(time >= begin, time < end, *chosen)
            .group_by(*(["bucket"] if width else []), *columns)
            .order_by(*order)
            .limit(limit)
        )
        rows = (row._mapping for row in self._db.rows(query))
        return [
            LedgerGroup(
                begin=int(row["bucket"]),
                last=int(row["last"]),
                names={name: row[name] for name in by},
                # PostgreSQL's sums of integers are decimals.
                sums=LedgerSums(**{name: _KINDS[name](row[name]) for name in COUNTED}),
            )
            for row in rows
            if row["requests"]
        ]

    def rows(
        self, begin: int, end: int, only: Mapping[str, Sequence[str]] | None = None
    ) -> Iterator[LedgerRow]:
        """The rows from `begin` to before `end`, in order of time, read in pages."""
        chosen = [_c[name].in_(values) for name, values in (only or {}).items()]
        after: ColumnElement[bool] = _c.ended >= begin
        while True:
            query = select(LEDGER).where(after, _c.ended < end, *chosen)
            page = self._db.rows(query.order_by(_c.ended, _c.id).limit(PAGE))
            for row in page:
                yield record(LedgerRow, row)
            if len(page) < PAGE:
                return
            last = page[-1]
            later = and_(_c.ended == last.ended, _c.id > last.id)
            after = and_(_c.ended >= last.ended, or_(_c.ended > last.ended, later))

    def newest(
        self, begin: int, end: int, only: Mapping[str, Sequence[str]], limit: int
    ) -> list[LedgerRow]:
        """The last rows from `begin` to before `end`, the newest first."""
        chosen = [_c[name].in_(values) for name, values in only.items()]
        query = select(LEDGER).where(_c.ended >= begin, _c.ended < end, *chosen)
        last = query.order_by(_c.ended.desc(), _c.id.desc()).limit(limit)
        return [record(LedgerRow, row) for row in self._db.rows(last)]


def _insert(
    db: Connection,
    table: Table,
    names: tuple[str, ...],
    rows: Sequence[tuple[Any, ...]],
    counts: tuple[str, ...] = (),
) -> None:
    """Insert rows with different keys and columns of these names. Where a row with the same key is
    there, its `counts` grow by theirs.

    Past SQLAlchemy, which would take longer than the database. And in few steps: SQLite gives up
    the interpreter's lock for each, and threads would fight for it."""
    for portion in _portions(rows):
        statement = _insertion(table, names, counts, db.dialect.paramstyle, len(portion))
        db.exec_driver_sql(statement, tuple(chain.from_iterable(portion)))


def _portions(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """The rows in parts of AT_ONCE, 32, 16 … 1: connections keep each statement that they have
    executed, and one of a hundred rows takes a hundred times as much memory as one of a row."""
    begin, size = 0, AT_ONCE
    while begin < len(rows):
        if size <= len(rows) - begin:
            yield rows[begin : begin + size]
            begin += size
        else:
            size //= 2


@cache
def _insertion(
    table: Table, names: tuple[str, ...], counts: tuple[str, ...], paramstyle: str, number: int
) -> str:
    """The statement for so many rows, with a mark for each value."""
    marks = ",".join(["?" if paramstyle == "qmark" else "%s"] * len(names))
    rows = ",".join([f"({marks})"] * number)
    columns = ",".join(f'"{name}"' for name in names)
    statement = f"insert into {table.name} ({columns}) values {rows}"
    if counts:
        key = ",".join(f'"{column.name}"' for column in table.primary_key)
        sums = ",".join(f'"{name}"={table.name}."{name}"+excluded."{name}"' for name in counts)
        statement += f" on conflict ({key}) do update set {sums}"
    return statement
