"""Snapshots: a replica encoded as bytes, for workers that join later.

The scheduler's records refer to one another. In a snapshot they are rows in tables, one table per
kind, and refer to one another by their index there; -1 is none. The encoding is msgpack of plain
values, so decoding untrusted bytes creates nothing but these rows. The first value is the format's
number.

Derived data is not written: the prefix index and the order of the queue follow from the order of
the tables, and a member's view of the backends is looked up at the member.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..ops import FORMAT
from ..replica import Replica, SharedRules
from .rows import Snapshot, SnapshotReader, SnapshotWriter

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Snapshot).decode
_decode_format = msgspec.msgpack.Decoder(list[Any]).decode


def dump(replica: Replica) -> bytes:
    """Encode a replica. Call it between two entries."""
    return _encode(SnapshotWriter().snapshot(replica))


def load(data: bytes, rules: SharedRules) -> Replica:
    """Decode a replica. Raises ValueError for invalid bytes or another format."""
    try:
        try:
            snapshot = _decode(data)
        except msgspec.MsgspecError:
            if _decode_format(data)[:1] not in ([], [FORMAT]):
                raise ValueError("it has another version") from None
            raise
        if snapshot.format != FORMAT:
            raise ValueError("it has another version")
        return SnapshotReader(snapshot).replica(rules)
    except (ValueError, LookupError, TypeError, RecursionError, OverflowError) as error:
        raise ValueError(f"not a valid snapshot: {error}") from None
