"""Stored responses: a bounded number for each key, in one table of SQLite.

Values are opaque bytes here. The oldest of a key make room for its newest, and a key sees its own
alone.
"""

from __future__ import annotations

import sqlite3
import threading
from typing import NamedTuple

SCHEMA = """
create table if not exists response (
  owner text not null,
  id text not null,
  created real not null,
  response blob not null,
  items blob not null,
  primary key (owner, id)
) without rowid;
create index if not exists response_created on response (owner, created);
"""


class Stored(NamedTuple):
    """A response, and all items it was made of."""

    response: bytes
    items: bytes


class ResponseStore:
    """`path` names a file, "" keeps all in memory; `most` responses and `most_bytes` a key."""

    def __init__(self, path: str, most: int, most_bytes: int = 64 << 20) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path or ":memory:", check_same_thread=False)
        self._db.executescript(SCHEMA)

    def put(self, owner: str, key: str, created: float, value: Stored) -> None:
        """Keep it, or replace what is kept under this id; one too large for all is not kept."""
        if len(value.response) + len(value.items) > self._most_bytes:
            return
        with self._lock, self._db:
            self._db.execute(
                "insert or replace into response values (?, ?, ?, ?, ?)",
                (owner, key, created, value.response, value.items),
            )
            rows = self._db.execute(
                "select id, length(response) + length(items) from response"
                " where owner = ? order by created desc, id = ? desc",
                (owner, key),
            )
            size = 0
            for number, (one, length) in enumerate(rows.fetchall(), start=1):
                size += length
                if number > self._most or size > self._most_bytes:
                    self._db.execute(
                        "delete from response where owner = ? and id = ?", (owner, one)
                    )

    def get(self, owner: str, key: str) -> Stored | None:
        with self._lock:
            row = self._db.execute(
                "select response, items from response where owner = ? and id = ?", (owner, key)
            ).fetchone()
        return None if row is None else Stored(*row)

    def all(self, owner: str) -> list[Stored]:
        """Oldest first."""
        with self._lock:
            rows = self._db.execute(
                "select response, items from response where owner = ? order by created", (owner,)
            ).fetchall()
        return [Stored(*row) for row in rows]

    def clear(self, owner: str) -> int:
        """How many there were."""
        with self._lock, self._db:
            return self._db.execute("delete from response where owner = ?", (owner,)).rowcount

    def delete(self, owner: str, key: str) -> bool:
        """Whether there was one."""
        with self._lock, self._db:
            cursor = self._db.execute(
                "delete from response where owner = ? and id = ?", (owner, key)
            )
            return cursor.rowcount > 0

    def close(self) -> None:
        with self._lock:
            self._db.close()
