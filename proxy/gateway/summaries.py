"""Summaries of conversations that were too long, by a digest of what they sum up and for whom."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from ..runtime.locks import native_lock

MOST_KEPT = 512  # summaries in memory
MOST_TEXT = 32_768  # characters of a summary


class Summaries(Protocol):
    """`group` is the group of keys whose conversation it is."""

    def last(self, group: str, keys: Sequence[bytes]) -> tuple[int, str] | None:
        """The last of these keys that has a summary, by its place, and the summary."""

    def put(self, group: str, key: bytes, text: str) -> str:
        """Keep a summary. Returns the one that counts: another worker's may have been first."""


class MemorySummaries:
    """The last MOST_KEPT summaries of this process."""

    def __init__(self) -> None:
        self._texts: OrderedDict[tuple[str, bytes], str] = OrderedDict()
        self._lock = native_lock()

    def last(self, group: str, keys: Sequence[bytes]) -> tuple[int, str] | None:
        with self._lock:
            for place in range(len(keys) - 1, -1, -1):
                text = self._texts.get((group, keys[place]))
                if text is not None:
                    self._texts.move_to_end((group, keys[place]))
                    return place, text
        return None

    def put(self, group: str, key: bytes, text: str) -> str:
        with self._lock:
            self._texts[group, key] = text
            self._texts.move_to_end((group, key))
            if len(self._texts) > MOST_KEPT:
                self._texts.popitem(last=False)
        return text
