"""A cache bounded in bytes, with digests as its keys: no text of a stranger stays in it."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from hashlib import blake2b
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """Values that were used last, `most` bytes of them. Each says how large it is; one that would
    take more than an eighth of all the room is not kept."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[bytes, tuple[T, int]] = OrderedDict()
        self.size = 0

    def get(self, key: bytes) -> T | None:
        found = self._values.get(key)
        if found is None:
            return None
        with contextlib.suppress(KeyError):  # another thread has dropped it meanwhile
            self._values.move_to_end(key)
        return found[0]

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
    """The key of a text, of 16 bytes."""
    return blake2b(data, digest_size=16).digest()
