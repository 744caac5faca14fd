"""A cache bounded in bytes, with digests as keys, so that it holds no client's text."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from hashlib import sha256
from typing import Generic, TypeVar

T = TypeVar("T")


class BoundedCache(Generic[T]):
    """The most recently used values, at most `most` bytes of them. `put` gets the size of each; a
    value larger than an eighth of the cache is not kept."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[bytes, tuple[T, int]] = OrderedDict()
        self.size = 0

    def get(self, key: bytes) -> T | None:
        entry = self._values.get(key)
        if entry is None:
            return None
        with contextlib.suppress(KeyError):  # another thread may have dropped it
            self._values.move_to_end(key)
        return entry[0]

    def put(self, key: bytes, value: T, size: int) -> None:
        if size > self._most >> 3:
            return
        _, before = self._values.pop(key, (None, 0))
        self._values[key] = value, size
        self.size += size - before
        while self.size > self._most and self._values:
            _, (_, gone) = self._values.popitem(last=False)
            self.size -= gone


def digest(data: bytes) -> bytes:
    """The key for a text: 16 bytes."""
    return sha256(data).digest()[:16]
