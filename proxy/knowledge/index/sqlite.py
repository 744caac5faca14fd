"""The index in a SQLite file: FTS5 for words, sqlite-vec for vectors.

The file is opened only through apsw: Python's own sqlite3 often cannot load extensions, and two
copies of SQLite in one process must not open the same file (sqlite.org/howtocorrupt.html).

Terms consist of letters and digits, so FTS5 only has to split at blanks, and queries cannot contain
syntax. Each term begins with the number of its base, so each base has its own counts, is separate
from others, and is not slowed down by their size. Vectors have length 1, so Euclidean distance,
which sqlite-vec computes fastest, gives the same order as cosine: cosine = 1 - distance² / 2.
"""

from __future__ import annotations

import array
import functools
import importlib.util
import json
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ...runtime.blocking import run_in_native_thread
from ...store.outage import address, identity, outage
from .lexical import VERSION
from .records import IndexHit, IndexRow, hit_of

if TYPE_CHECKING:
    import apsw

T = TypeVar("T")

SCHEMA = """
create table if not exists base (number integer primary key, id text unique not null);
create table if not exists entry (
  id integer primary key autoincrement,
  base integer not null,
  chunk text unique not null,
  document text not null,
  dims integer not null,
  length integer not null,
  terms text not null
);
create index if not exists entry_base on entry (base, length);
create index if not exists entry_document on entry (document, dims);
create virtual table if not exists passage using fts5(
  terms, content='', contentless_delete=1, tokenize='ascii'
);
create virtual table if not exists passage_term using fts5vocab(passage, row);
"""
WAIT = 10_000  # milliseconds to wait for another process that writes
MAPPED = 1 << 30  # bytes of the file that are memory-mapped, since vectors are compared one by one


class SqliteShelf:
    def __init__(self, file: Path) -> None:
        self._name = str(file)
        # Idle connections. Appending and popping at the ends of a deque is thread-safe.
        self._idle: deque[tuple[apsw.Connection, tuple[int, int]]] = deque()
        with open(file, "ab"):
            pass  # SQLite does not create it: see address()
        self._read(lambda db: db.execute("pragma journal_mode = wal").fetchall())
        self._write(_prepare)

    def put(self, base: str, rows: Sequence[IndexRow]) -> None:
        """Store all rows or none. Existing chunks are replaced."""
        self._write(functools.partial(_put, base=base, rows=rows))

    def drop(
        self, *, base: str | None = None, document: str | None = None, chunks: Collection[str] = ()
    ) -> None:
        """Remove the rows that match any of these arguments."""

        def work(db: apsw.Connection) -> None:
            if base is not None:
                _forget(db, "base = (select number from base where id = ?)", base)
                db.execute("delete from base where id = ?", (base,))
            if document is not None:
                _forget(db, "document = ?", document)
            if chunks:
                _forget(db, "chunk in (select value from json_each(?))", json.dumps(list(chunks)))

        self._write(work)

    def purge(self) -> None:
        """Remove all traces of dropped rows: FTS5 keeps their words until a merge."""
        self._write(lambda db: db.execute("insert into passage(passage) values ('optimize')"))
        self._read(lambda db: db.execute("pragma wal_checkpoint(truncate)").fetchall())

    def census(self) -> Mapping[str, tuple[int, int]]:
        """Return, for each document, the number of its rows and how many of them have vectors."""
        sql = "select document, count(*), sum(dims > 0) from entry group by document"
        return self._read(
            lambda db: {name: (rows, vectors) for name, rows, vectors in db.execute(sql)}
        )

    def size(self, base: str) -> tuple[int, int]:
        """Return the number of rows in a base, and of terms in all of them."""

        def work(db: apsw.Connection) -> tuple[int, int]:
            sql = "select count(*), coalesce(sum(length), 0) from entry where base = ?"
            rows, terms = _one(db, sql, _number(db, base))
            return rows, terms

        return self._read(work)

    def having(self, base: str, terms: Collection[str]) -> Mapping[str, int]:
        """Return how many rows contain each term; PostgreSQL cuts the counting short."""

        def work(db: apsw.Connection) -> dict[str, int]:
            head = f"{_number(db, base)}q"
            words = json.dumps([head + term for term in terms])
            counts = db.execute(
                "select term, doc from passage_term where term in (select value from json_each(?))",
                (words,),
            )
            return {term[len(head) :]: rows for term, rows in counts}

        return self._read(work)

    def matching(
        self, base: str, weighed: Mapping[str, float], documents: Collection[str] | None, most: int
    ) -> list[IndexRow]:
        """Return rows with any of these terms, roughly the best first."""

        def work(db: apsw.Connection) -> list[IndexRow]:
            head = f"{_number(db, base)}q"
            only, values = "", [" OR ".join(f'"{head}{term}"' for term in weighed)]
            if documents is not None:
                only = " and e.document in (select value from json_each(?))"
                values.append(json.dumps(list(documents)))
            selected = db.execute(
                "select e.chunk, e.document, e.terms, e.length"
                " from passage p cross join entry e on e.id = p.rowid"
                f" where p.passage match ?{only} order by p.rank limit ?",
                (*values, most),
            )
            return [IndexRow(*row) for row in selected]

        return self._read(work)

    def nearest(
        self, base: str, vector: Sequence[float], documents: Collection[str] | None, most: int
    ) -> list[IndexHit]:
        """Return the nearest rows, the nearest first. Vectors of another length are ignored."""
        size = len(vector)

        def work(db: apsw.Connection) -> list[IndexHit]:
            tables = "select count(*) from sqlite_master where name = ?"
            if not _one(db, tables, f"near_{size}")[0]:
                return []
            number = _number(db, base)
            only, values = "base = ?", list[Any]([_packed(vector), number])
            if documents is not None:
                only += (
                    " and id in (select id from entry"
                    " where document in (select value from json_each(?)))"
                )
                values.append(json.dumps(list(documents)))
            selected = db.execute(
                "select e.chunk, e.document, v.distance from"
                f" (select id, vec_distance_l2(vector, ?) as distance from near_{size}"
                f" where {only} order by distance limit ?) v"
                " join entry e on e.id = v.id order by v.distance",
                (*values, most),
            )
            return [
                hit_of(chunk, document, base, 1.0 - distance**2 / 2.0)
                for chunk, document, distance in selected
            ]

        return self._read(work)

    def close(self) -> None:
        while self._idle:
            self._idle.pop()[0].close()

    def _connect(self) -> apsw.Connection:
        import apsw

        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI
        db = apsw.Connection(address(self._name), flags=flags)
        try:
            db.set_busy_timeout(WAIT)
            db.enable_load_extension(True)
            db.load_extension(_extension())
            db.enable_load_extension(False)
            pragmas = f"pragma synchronous = normal; pragma mmap_size = {MAPPED}"
            db.execute(f"{pragmas}; pragma secure_delete = on").fetchall()
        except BaseException:
            db.close()
            raise
        return db

    @contextmanager
    def _connection(self) -> Iterator[apsw.Connection]:
        now = identity(self._name)
        try:
            db, file = self._idle.pop()
            if file != now:  # moved or replaced
                db.close()
                raise IndexError
        except IndexError:
            db = self._connect()
        try:
            yield db
        finally:
            self._idle.append((db, now))

    def _read(self, work: Callable[[apsw.Connection], T]) -> T:
        def run() -> T:
            with self._connection() as db:
                return work(db)

        return _done(run)

    def _write(self, work: Callable[[apsw.Connection], T]) -> T:
        def run() -> T:
            with self._connection() as db:
                db.execute("begin immediate")
                try:
                    done = work(db)
                    db.execute("commit")
                except BaseException:
                    if db.in_transaction:  # SQLite rolls back by itself if the disk is full
                        db.execute("rollback")
                    raise
                return done

        return _done(run)


def _done(work: Callable[[], T]) -> T:
    """Run `work` in a native thread. Raises StoreUnavailable."""
    try:
        return run_in_native_thread(work)
    except Exception as error:
        if fault := outage(error):
            raise fault from error
        raise


def _extension() -> str:
    """Return the path of sqlite-vec's library. Its Python package would import numpy."""
    package = importlib.util.find_spec("sqlite_vec")
    if package is None or package.origin is None:
        raise ImportError("sqlite-vec, of the extra `knowledge`, is not installed")
    return str(Path(package.origin).with_name("vec0"))


def _prepare(db: apsw.Connection) -> None:
    """Create the tables; drop those that another version has filled in another way."""
    if _one(db, "pragma user_version")[0] != VERSION:
        ours = (
            "select name from sqlite_master where type = 'table' and (name in ('base', 'entry')"
            " or sql like 'create virtual table%' or name glob 'near_[0-9]*')"
            " order by name != 'passage_term'"
        )
        for (name,) in db.execute(ours).fetchall():
            db.execute(f"drop table {name}")
        db.execute(f"pragma user_version = {VERSION}")
    db.execute(SCHEMA)


def _one(db: apsw.Connection, sql: str, *values: Any) -> tuple[Any, ...]:
    row = db.execute(sql, values).fetchone()
    assert row is not None, "each of these has a row"
    return tuple(row)


def _number(db: apsw.Connection, base: str) -> int:
    """Return a base's number; 0, which no row has, for an unknown base."""
    row = db.execute("select number from base where id = ?", (base,)).fetchone()
    return row[0] if row else 0


def _packed(vector: Sequence[float]) -> bytes:
    """Pad a vector with zeros, which add no distance, as all vectors in these tables are."""
    return array.array("f", vector).tobytes() + bytes(4 * (-len(vector) % 8))


def _put(db: apsw.Connection, base: str, rows: Sequence[IndexRow]) -> None:
    db.execute("insert or ignore into base (id) values (?)", (base,))
    number = _number(db, base)
    chunks = json.dumps([row.chunk_id for row in rows])
    _forget(db, "chunk in (select value from json_each(?))", chunks)
    for size in {len(row.vector) for row in rows if row.vector}:
        db.execute(
            f"create table if not exists near_{size}"
            " (id integer primary key, base integer not null, vector blob not null);"
            f" create index if not exists near_{size}_base on near_{size} (base)"
        )
    for row in rows:
        (key,) = _one(
            db,
            "insert into entry (base, chunk, document, dims, length, terms)"
            " values (?, ?, ?, ?, ?, ?) returning id",
            number,
            row.chunk_id,
            row.document_id,
            len(row.vector),
            row.length,
            row.terms,
        )
        marked = " ".join(f"{number}q{term}" for term in row.terms.split())
        db.execute("insert into passage (rowid, terms) values (?, ?)", (key, marked))
        if row.vector:
            added = f"insert into near_{len(row.vector)} (id, base, vector) values (?, ?, ?)"
            db.execute(added, (key, number, _packed(row.vector)))


def _forget(db: apsw.Connection, which: str, value: Any) -> None:
    """Delete rows. `which` is an SQL condition and must never come from a client."""
    for key, dims in db.execute(f"select id, dims from entry where {which}", (value,)).fetchall():
        db.execute("delete from passage where rowid = ?", (key,))
        if dims:
            db.execute(f"delete from near_{dims} where id = ?", (key,))
        db.execute("delete from entry where id = ?", (key,))
