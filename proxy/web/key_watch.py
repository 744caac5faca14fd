"""Ends the running requests of API keys that are no longer accepted.

A key may be blocked, deleted or expire, here or in another worker, or vanish from the key file. All
of that is asked in one way: several times a second, for each key with running requests, whether a
new request would be accepted. The answer comes from memory (see `accounts.book`).
"""

from __future__ import annotations

import threading
from functools import partial

from ..errors import KeyEnded, StoreUnavailable, Unauthorized
from ..runtime.lasting import Lasting
from .auth import Keys
from .observability import Observer

INTERVAL = 0.25  # seconds between two looks; other workers know of a change after half a second
GONE = "this API key was deleted"


class KeyWatch:
    """`start` begins a thread that looks."""

    def __init__(self, keys: Keys, observer: Observer) -> None:
        self._keys = keys
        self._observer = observer
        self._closed = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="keys", daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def look(self) -> None:
        """End the requests of keys that are refused now."""
        for key in self._observer.running_keys() if self._keys.needed else ():
            try:
                self._keys.check_name(key, GONE)
            except Unauthorized as error:
                reason = f"the gateway has ended this request: {error.message}"
                self._observer.end(key, partial(KeyEnded, reason))
            except StoreUnavailable:
                pass  # known keys go on

    def _run(self) -> None:
        lasting = Lasting("looking for refused API keys", self._closed.wait)
        while not self._closed.wait(INTERVAL):
            lasting.turn(self.look)
