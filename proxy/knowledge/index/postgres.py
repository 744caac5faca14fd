"""The index in PostgreSQL: full-text search for words, pgvector, if the server has it, for vectors.

Texts are split by `lexical`, since the server's parser may drop Chinese. Each term begins with the
number of its base. Candidates are the rows with the greatest sum of term weights: the server's
ranking does not consider rarity.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Connection, Engine

from .lexical import VERSION
from .records import IndexHit, IndexRow, hit_of

log = logging.getLogger("slotproxy.knowledge")

SCHEMA = """
create table if not exists index_base (
  number bigint generated always as identity primary key,
  id text unique not null
);
create table if not exists index_entry (
  id bigint generated always as identity primary key,
  base bigint not null,
  chunk text unique not null,
  document text not null,
  length integer not null,
  terms text not null,
  words tsvector not null
);
create index if not exists index_entry_base on index_entry (base, length);
create index if not exists index_entry_document on index_entry (document);
create index if not exists index_entry_words on index_entry using gin (words);
alter index index_entry_words set (fastupdate = off);
alter table index_entry set (toast_tuple_target = 128);
"""
VECTORS = """
create extension if not exists vector;
create table if not exists index_vector (
  id bigint primary key references index_entry on delete cascade,
  base bigint not null,
  dims integer not null,
  vector vector not null
);
create index if not exists index_vector_base on index_vector (base, dims);
"""
LOCK = 0x510795  # advisory lock for processes that open the shelf at the same time
MOST_COUNTED = 2000  # rows of one term; counting more takes longer than it is worth
MOST_DIMS = 2000  # limit of pgvector's index; longer vectors are compared one by one


class PostgresShelf:
    """`engine` is SQLAlchemy's with psycopg 3, which lets other greenlets run while it waits."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._indexed: set[int] = set()
        with engine.begin() as db:
            db.exec_driver_sql("select pg_advisory_xact_lock(%s)", (LOCK,))
            comment = "select obj_description(to_regclass('index_entry'), 'pg_class')"
            if db.exec_driver_sql(comment).scalar() != str(VERSION):  # split by another version
                db.exec_driver_sql("drop table if exists index_vector, index_entry, index_base")
            db.exec_driver_sql(SCHEMA)
            db.exec_driver_sql(f"comment on table index_entry is '{VERSION}'")
            available = db.exec_driver_sql(
                "select count(*) from pg_available_extensions where name = 'vector'"
            )
            self._vectors = bool(available.scalar())
            if self._vectors:
                db.exec_driver_sql(VECTORS)
            else:
                log.warning("PostgreSQL has no extension pgvector: searching by words only")

    def put(self, base: str, rows: Sequence[IndexRow]) -> None:
        if self._vectors:
            for size in {len(row.vector) for row in rows} - self._indexed:
                self._index(size)
        with self._engine.begin() as db:
            db.exec_driver_sql(
                "insert into index_base (id) values (%s) on conflict do nothing", (base,)
            )
            number = _number(db, base)
            db.exec_driver_sql(
                "delete from index_entry where chunk = any(%s)", ([row.chunk_id for row in rows],)
            )
            for row in rows:
                marked = [f"{number}q{term}" for term in set(row.terms.split())]
                key = db.exec_driver_sql(
                    "insert into index_entry (base, chunk, document, length, terms, words)"
                    " values (%s, %s, %s, %s, %s, array_to_tsvector(%s::text[])) returning id",
                    (number, row.chunk_id, row.document_id, row.length, row.terms, marked),
                ).scalar()
                if row.vector and self._vectors:
                    db.exec_driver_sql(
                        "insert into index_vector (id, base, dims, vector)"
                        " values (%s, %s, %s, %s::vector)",
                        (key, number, len(row.vector), _written(row.vector)),
                    )

    def drop(
        self, *, base: str | None = None, document: str | None = None, chunks: Collection[str] = ()
    ) -> None:
        with self._engine.begin() as db:
            if base is not None:
                db.exec_driver_sql("delete from index_entry where base = %s", (_number(db, base),))
                db.exec_driver_sql("delete from index_base where id = %s", (base,))
            if document is not None:
                db.exec_driver_sql("delete from index_entry where document = %s", (document,))
            if chunks:
                db.exec_driver_sql("delete from index_entry where chunk = any(%s)", (list(chunks),))

    def purge(self) -> None:
        """Does nothing: the server's own vacuum does this."""

    def census(self) -> Mapping[str, tuple[int, int]]:
        counted = "count(v.id)" if self._vectors else "0"
        joined = "left join index_vector v using (id)" if self._vectors else ""
        sql = f"select document, count(*), {counted} from index_entry {joined} group by document"
        with self._engine.connect() as db:
            return {name: (rows, vectors) for name, rows, vectors in db.exec_driver_sql(sql)}

    def size(self, base: str) -> tuple[int, int]:
        sql = "select count(*), coalesce(sum(length), 0) from index_entry where base = %s"
        with self._engine.connect() as db:
            rows, terms = db.exec_driver_sql(sql, (_number(db, base),)).one()
            return rows, terms

    def having(self, base: str, terms: Collection[str]) -> Mapping[str, int]:
        with self._engine.connect() as db:
            head = f"{_number(db, base)}q"
            _by_index(db)
            counts = db.exec_driver_sql(
                "select t.term, c.rows from unnest(%s::text[]) t (term), lateral ("
                " select count(*) as rows from ("
                "  select 1 from index_entry e"
                "  where e.words @@ quote_literal(%s || t.term)::tsquery limit %s) n) c"
                " where c.rows > 0",
                (list(terms), head, MOST_COUNTED),
            )
            return {term: rows for term, rows in counts}

    def matching(
        self, base: str, weighed: Mapping[str, float], documents: Collection[str] | None, most: int
    ) -> list[IndexRow]:
        with self._engine.connect() as db:
            head = f"{_number(db, base)}q"
            _by_index(db)
            only, values = "", [head, list(weighed), list(weighed.values())]
            if documents is not None:
                only = " where e.document = any(%s)"
                values.append(list(documents))
            rows_read = db.exec_driver_sql(
                "select e.chunk, e.document, e.terms, e.length from ("
                " select e.id, sum(t.weight) as weight"
                " from (select %s::text as head) h,"
                " unnest(%s::text[], %s::float8[]) t (term, weight), lateral ("
                "  select id, document from index_entry i"
                "  where i.words @@ quote_literal(h.head || t.term)::tsquery) e"
                f"{only} group by e.id order by 2 desc, 1 limit %s) best"
                " join index_entry e using (id) order by best.weight desc, e.id",
                (*values, most),
            )
            return [IndexRow(*row) for row in rows_read]

    def nearest(
        self, base: str, vector: Sequence[float], documents: Collection[str] | None, most: int
    ) -> list[IndexHit]:
        if not self._vectors:
            return []
        size = len(vector)
        with self._engine.connect() as db:
            only, values = "", [_written(vector), _number(db, base)]
            if documents is not None:
                only = " and e.document = any(%s)"
                values.append(list(documents))
            # pgvector's index filters after the search, so continue until it has found enough rows
            # of this base.
            db.exec_driver_sql("set local hnsw.iterative_scan = strict_order")
            nearest = db.exec_driver_sql(
                "select e.chunk, e.document,"
                f" v.vector::vector({size}) <#> %s::vector({size}) as negative"
                " from index_vector v join index_entry e using (id)"
                f" where v.dims = {size} and v.base = %s{only} order by negative limit %s",
                (*values, most),
            )
            return [
                hit_of(chunk, document, base, -negative) for chunk, document, negative in nearest
            ]

    def close(self) -> None:
        """Does nothing: the owner closes the engine."""

    def _index(self, size: int) -> None:
        """Create pgvector's index, which is for one length of vectors."""
        self._indexed.add(size)
        if not 0 < size <= MOST_DIMS:
            return
        with self._engine.begin() as db:
            db.exec_driver_sql("select pg_advisory_xact_lock(%s)", (LOCK,))
            db.exec_driver_sql(
                f"create index if not exists index_vector_{size} on index_vector"
                f" using hnsw ((vector::vector({size})) vector_ip_ops) where dims = {size}"
            )


def _number(db: Connection, base: str) -> int:
    """Return a base's number; 0, which no row has, for an unknown base."""
    sql = "select number from index_base where id = %s"
    return db.exec_driver_sql(sql, (base,)).scalar() or 0


def _by_index(db: Connection) -> None:
    """Make the planner use the index of terms; it would read the whole table."""
    db.exec_driver_sql("set local enable_seqscan = off; set local enable_indexscan = off")


def _written(vector: Sequence[float]) -> str:
    return "[" + ",".join(map(repr, vector)) + "]"
