"""A ring of captures in a private file of SQLite: the oldest make room for new ones. A crash leaves
whole captures only, and all workers use the same file.

Captures of a key are packed together, in one row: their JSON without the texts, then the texts."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

import msgspec

from ..errors import StoreUnavailable
from ..runtime import private_files
from .captures_redact import Body, Sizes, split

if TYPE_CHECKING:
    import sqlite3

WAIT = 5.0  # seconds for another process that writes
OLD = 100  # batches whose age is looked at after a write
SHARE = 16  # the part of the ring that makes room at once
LEVEL = 1  # of the compression
NEWEST = 1 << 62  # above all numbers
PAGES = 64 << 10  # bytes of pages in memory, where SQLite's 2 MB fill with what nobody reads
# The index has all that a search needs: no other page is read until something is found.
_SCHEMA = f"""PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
PRAGMA secure_delete = ON; DROP TABLE IF EXISTS packed;
DROP TABLE IF EXISTS batch; DROP TABLE IF EXISTS block; DROP TABLE IF EXISTS frame;
PRAGMA secure_delete = OFF; PRAGMA wal_checkpoint(TRUNCATE); PRAGMA cache_size = -{PAGES >> 10};
CREATE TABLE IF NOT EXISTS pack (
    number INTEGER PRIMARY KEY, at REAL, key TEXT, requests BLOB, data BLOB);
CREATE INDEX IF NOT EXISTS pack_found ON pack (key, number, requests);"""
_FIRST = "number < (SELECT min(number) FROM pack) +"
Json = dict[str, Any]
_encode = msgspec.json.Encoder().encode


class Entry(msgspec.Struct, gc=False):
    """A capture in two texts: a thousand that wait to be stored are few objects. `head` is the JSON
    of the capture and of the sizes of its bodies; none of `secrets` may be in what is stored."""

    key: str
    request: str
    ended: float
    head: bytes
    text: bytes
    secrets: tuple[bytes, ...] = ()


class Block(NamedTuple):
    """Captures of one key, packed: when the last one ended, and checksums of their requests."""

    at: float
    key: str
    requests: bytes
    data: bytes


class About(msgspec.Struct, array_like=True, gc=False):
    """A capture without its bodies. `calls` has the first line and the status of each call of a
    backend; `more_calls` are left out."""

    id: str
    key: str
    ended: float
    status: int
    request: str
    more_calls: int
    headers: msgspec.Raw
    calls: list[tuple[str, int]]


_head = msgspec.json.Decoder(tuple[About, Sizes])
_heads = msgspec.json.Decoder(list[tuple[About, Sizes]])

Opened = tuple[About, list[Body]]
"""A capture and its bodies: those of both sides of the client, then of each call."""


def _zstd() -> Any:  # most gateways capture nothing
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def entry_of(about: About, bodies: Iterable[Body], secrets: Iterable[bytes] = ()) -> Entry:
    texts, missing = zip(*bodies, strict=True)
    head = _encode((about, [*zip(map(len, texts), missing, strict=True)]))
    return Entry(about.key, about.id, about.ended, head, b"".join(texts), tuple(secrets))


def parts_of(entry: Entry) -> Opened:
    about, sizes = _head.decode(entry.head)
    return about, split(entry.text, sizes)


def joined(entries: Iterable[Entry]) -> bytes:
    return b"".join([entry.text for entry in entries])


def packed(entries: Sequence[Entry], text: bytes) -> Block:
    """Captures of one key, and their joined texts."""
    last, requests = entries[-1], b"".join([_sum(entry.request) for entry in entries])
    heads = b",".join([entry.head for entry in entries])
    data = b"[%b]\n%b" % (heads, text)
    return Block(last.ended, last.key, requests, _zstd().compress(data, LEVEL))


def _opened(data: bytes) -> list[Opened]:
    heads, _, text = _zstd().decompress(data).partition(b"\n")
    captures = _heads.decode(heads)
    bodies = iter(split(text, [size for _, sizes in captures for size in sizes]))
    return [(about, [*islice(bodies, len(sizes))]) for about, sizes in captures]


def _whole(about: About, bodies: Iterable[Body]) -> Json:
    texts = ({"text": data.decode(errors="replace"), "missing": gone} for data, gone in bodies)
    calls = [{"request": line, "status": status} for line, status in about.calls]
    capture: Json = {**msgspec.structs.asdict(about), "object": "request.capture", "calls": calls}
    capture["headers"] = msgspec.json.decode(about.headers)
    for side in (capture, *capture["calls"]):
        side |= {"sent": next(texts), "received": next(texts)}
    return capture


def _sum(request: str) -> bytes:
    return crc32(request.encode()).to_bytes(4, "big")


class Ring:
    """At most `size` bytes, of the last `seconds`. All methods may raise StoreUnavailable. A thread
    at a time uses it, on a connection that stays open: whoever closes the last one waits for the
    disk, as the log of writes is moved into the file then."""

    def __init__(self, file: Path, size: int, seconds: float) -> None:
        self._file, self._size, self._seconds = file, size, seconds
        self._connection: sqlite3.Connection | None = None

    def write(self, blocks: Iterable[Block]) -> None:
        """Add these, and delete what is too old or too much."""
        before, gone = time.time() - self._seconds, 1
        if not self._file.exists():
            self.close()
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            private_files.database(self._file)
        with self._open() as db, db:
            db.execute("BEGIN IMMEDIATE")
            add = "INSERT INTO pack (at, key, requests, data) VALUES (?, ?, ?, ?)"
            db.executemany(add, blocks)
            db.execute(f"DELETE FROM pack WHERE {_FIRST} {OLD} AND at < ?", (before,))
            while gone and _used(db) > self._size:
                oldest = f"1 + (SELECT max(number) - min(number) FROM pack) / {SHARE}"
                gone = db.execute(f"DELETE FROM pack WHERE {_FIRST} {oldest}").rowcount

    def find(
        self, below: int = NEWEST, key: str | None = None, request: str = ""
    ) -> tuple[int, list[Json]]:
        """The captures of this key and request in the newest block that has such ones, of those
        with a number below this one: the block's number, and the newest first. 0 without one."""
        if self._file.exists():
            with self._open() as db, db:
                db.execute("BEGIN")  # sees one state
                for number, captures in _blocks(db, key, request, below):
                    if chosen := [pair for pair in captures if request in ("", pair[0].id)]:
                        return number, [_whole(*pair) for pair in reversed(chosen)]
        return 0, []

    def delete(self, key: str, request: str = "") -> int:
        """Delete the captures of a key, or this one, also from the pages of the file. Returns how
        many there were."""
        if not self._file.exists():
            return 0
        with self._open() as db:
            db.execute("PRAGMA secure_delete = ON")
            with db:
                db.execute("BEGIN IMMEDIATE")
                if request:
                    gone = sum(_delete(db, request, *block) for block in _blocks(db, key, request))
                else:
                    count = "SELECT total(length(requests)) / 4 FROM pack WHERE key = ?"
                    gone = int(db.execute(count, (key,)).fetchone()[0])
                    db.execute("DELETE FROM pack WHERE key = ?", (key,))
            db.executescript("PRAGMA secure_delete = OFF; PRAGMA wal_checkpoint(TRUNCATE);")
        return gone

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        import sqlite3  # most gateways capture nothing

        try:
            if self._connection is None:
                options: Json = {"isolation_level": None, "check_same_thread": False}
                db = sqlite3.connect(self._file, WAIT, **options)
                db.executescript(_SCHEMA)
                self._connection = db
            yield self._connection
        except (sqlite3.Error, _zstd().ZstdError) as error:
            raise StoreUnavailable(f"the captures cannot be used: {error}") from error


def _blocks(
    db: sqlite3.Connection, key: str | None, request: str, below: int = NEWEST
) -> Iterator[tuple[int, list[Opened]]]:
    """The blocks below this number that may have captures of this key and request, with their
    numbers, the newest first."""
    whose = "" if key is None else "key = :key AND"
    where = f"{whose} instr(requests, :sum) AND number < :below"
    query = f"SELECT max(number) FROM pack INDEXED BY pack_found WHERE {where}"
    values = {"key": key, "sum": _sum(request) if request else b""}
    while below := db.execute(query, {**values, "below": below}).fetchone()[0] or 0:
        (data,) = db.execute("SELECT data FROM pack WHERE number = ?", (below,)).fetchone()
        yield below, _opened(data)


def _delete(db: sqlite3.Connection, request: str, number: int, captures: list[Opened]) -> int:
    left = [pair for pair in captures if pair[0].id != request]
    db.execute("DELETE FROM pack WHERE number = ?", (number,))
    if left:
        entries = [entry_of(*pair) for pair in left]
        block = packed(entries, joined(entries))
        add = "INSERT INTO pack (number, at, key, requests, data) VALUES (?, ?, ?, ?, ?)"
        db.execute(add, (number, *block))
    return len(captures) - len(left)


def _used(db: sqlite3.Connection) -> int:
    names = "page_count", "freelist_count", "page_size"
    pages, free, size = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    return int((pages - free) * size)
