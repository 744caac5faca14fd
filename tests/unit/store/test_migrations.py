"""A database with rows in every table is upgraded from each revision that ever was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="the extra `knowledge` is not installed")

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, Connection, MetaData, Table, func, insert, select

from proxy.store.database import Database
from proxy.store.revisions import MIGRATIONS
from proxy.store.tables import metadata

REVISIONS = sorted(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
OURS = ("alembic_version", "account_state")  # tables with rows of their own
# A file was one row; since 0003, it is rows of pieces.
PIECES = {"document_original": "document_piece", "openai_file_content": "openai_file_piece"}
FILE = b"seven pieces of paper"
OF_TYPE: Mapping[type, Any] = {
    dict: {},
    object: {},
    bool: False,
    bytes: FILE,
    int: len(FILE),
    float: 1.5,
}


@pytest.mark.slow
@pytest.mark.parametrize("revision", REVISIONS)
def test_rows_of_every_revision_survive_the_upgrade(revision: str, url: str) -> None:
    database = Database(url)
    try:
        database.upgrade(revision)
        with database.begin() as db:
            before = _filled(db)
        assert len(before) >= 6
        database.upgrade()
        with database.begin() as db:
            after = _reflected(db)
            for name, row in before.items():
                table = after.tables[name if name in after.tables else PIECES[name]]
                assert db.execute(select(func.count()).select_from(table)).scalar() == 1, name
                (kept,) = db.execute(select(table)).mappings()
                for column in kept.keys() & row.keys():
                    assert kept[column] == row[column], f"{name}.{column}"
            context = MigrationContext.configure(db, opts={"include_object": _ours})
            assert compare_metadata(context, metadata) == []
    finally:
        database.close()


def _reflected(db: Connection) -> MetaData:
    tables = MetaData()
    tables.reflect(db)
    return tables


def _filled(db: Connection) -> Mapping[str, Mapping[str, Any]]:
    """Put a row into every table, and return the rows by table."""
    rows: dict[str, Mapping[str, Any]] = {}
    for table in _reflected(db).sorted_tables:
        if table.name in OURS:
            continue
        row = {column.name: _value(table, column, rows) for column in table.columns}
        db.execute(insert(table).values(**row))
        rows[table.name] = row
    return rows


def _value(table: Table, column: Column[Any], rows: Mapping[str, Mapping[str, Any]]) -> Any:
    for key in column.foreign_keys:
        parent = key.column
        return None if parent.table is table else rows[parent.table.name][parent.name]
    if column.type.python_type is str:
        return f"{column.name} of {table.name}"
    return 0 if column.name == "number" else OF_TYPE[column.type.python_type]


def _ours(thing: object, name: str, kind: str, reflected: bool, other: object) -> bool:
    return kind != "table" or name in metadata.tables
