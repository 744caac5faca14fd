"""Summaries in Redis or Valkey, which all workers and hosts share.

So all of them ask with the same summary: the beginning of a prompt stays the same, and its cached
part is used. If Redis is away, each worker goes on with the summaries in its memory.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, TypeVar

from ..runtime import redis_client
from ..runtime.locks import native_lock

# Summaries of conversations that were too long, by a digest of what they sum up and for whom.
MOST_KEPT = 512  # summaries in memory
MOST_TEXT = 32_768  # characters of a summary


class Summaries:
    """The last MOST_KEPT summaries of this process. `group` is the group of keys whose conversation
    it is."""

    def __init__(self) -> None:
        self._texts: OrderedDict[tuple[str, bytes], str] = OrderedDict()
        self._lock = native_lock()

    def last(self, group: str, keys: Sequence[bytes]) -> tuple[int, str] | None:
        """The last of these keys that has a summary, by its place, and the summary."""
        with self._lock:
            for place in range(len(keys) - 1, -1, -1):
                text = self._texts.get((group, keys[place]))
                if text is not None:
                    self._texts.move_to_end((group, keys[place]))
                    return place, text
        return None

    def put(self, group: str, key: bytes, text: str) -> str:
        """Keep a summary. Returns the one that counts: another worker's may have been first."""
        with self._lock:
            self._texts[group, key] = text
            self._texts.move_to_end((group, key))
            if len(self._texts) > MOST_KEPT:
                self._texts.popitem(last=False)
        return text


LIFETIME = 3600  # seconds that an unused summary is kept
LOOKED_UP = 1024  # newest keys of a conversation that are looked up
AGAIN = 5.0  # seconds for which a failed Redis is not asked again

T = TypeVar("T")

log = logging.getLogger("slotproxy.summaries")


class SharedSummaries(Summaries):
    """Summaries of all workers with the same `url` and `name`, which Redis forgets when they are
    not used for LIFETIME seconds. Raises ImportError if redis-py is not installed, ValueError for
    an invalid URL."""

    def __init__(self, url: str, name: str) -> None:
        import redis

        super().__init__()
        self._error = redis.RedisError
        self._redis: Any = redis_client.connect(url)
        self._prefix = f"slotproxy:{{{name}}}:summaries:"
        self._down = 0.0  # until when Redis is not asked again

    def last(self, group: str, keys: Sequence[bytes]) -> tuple[int, str] | None:
        own = super().last(group, keys)
        first = max(0 if own is None else own[0] + 1, len(keys) - LOOKED_UP)
        shared = self._asked(lambda: self._last(group, keys, first)) if first < len(keys) else None
        if shared is None:
            return own
        place, text = shared
        super().put(group, keys[place], text)
        return place, text

    def put(self, group: str, key: bytes, text: str) -> str:
        shared = self._asked(lambda: self._put(group, key, text))
        return super().put(group, key, shared or text)

    def _last(self, group: str, keys: Sequence[bytes], first: int) -> tuple[int, str] | None:
        names = [self._name(group, key) for key in keys]
        texts = self._redis.mget(names[first:])
        for place in range(len(keys) - 1, first - 1, -1):
            if text := _text(texts[place - first]):
                self._redis.expire(names[place], LIFETIME)
                return place, text
        return None

    def _put(self, group: str, key: bytes, text: str) -> str:
        name = self._name(group, key)
        if self._redis.set(name, text.encode("utf-8", "replace"), nx=True, ex=LIFETIME):
            return text
        return _text(self._redis.get(name)) or text

    def _name(self, group: str, key: bytes) -> str:
        """The name of a summary in Redis, which tells nothing about its group."""
        digest = blake2b(group.encode("utf-8", "replace") + b"\0" + key, digest_size=16)
        return self._prefix + digest.hexdigest()

    def _asked(self, ask: Callable[[], T]) -> T | None:
        """The answer of Redis, None if there is none."""
        if time.monotonic() < self._down:
            return None
        try:
            return ask()
        except self._error as error:
            self._down = time.monotonic() + AGAIN
            log.warning("Redis keeps no summaries for now: %s", type(error).__name__)
            return None


def _text(data: bytes | None) -> str:
    return "" if data is None else data.decode("utf-8", "replace")[:MOST_TEXT]
