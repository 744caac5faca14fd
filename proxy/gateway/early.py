"""A queue for requests that arrive before the first backend has reported its model.

Until then there is no chat template, and no model's queue to wait in."""

from __future__ import annotations

import threading

from msgspec import Struct

from ..errors import QueueFull
from ..scheduling.base import PLACE_LOST
from ..scheduling.fair import displaced


class EarlyPlace(Struct, eq=False):
    """The place of a request of `key`."""

    key: str
    again: bool = False


class EarlyQueue:
    """A queue of `most` places, which keys share as in `scheduling.fair`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._places: list[EarlyPlace] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._places)

    def take(self, key: str) -> EarlyPlace:
        """Take a place, to be given back with `give`. Raises QueueFull."""
        place = EarlyPlace(key)
        with self._lock:
            if len(self._places) >= self._most:
                other = displaced(self._places, key)
                if other is None:
                    raise QueueFull(
                        "too many requests are waiting for the first backend", retry_after=1.0
                    )
                self._places.remove(other)
            self._places.append(place)
        return place

    def check(self, place: EarlyPlace) -> None:
        """Raises QueueFull if another key displaced this place."""
        if place not in self._places:
            raise QueueFull(PLACE_LOST, retry_after=1.0)

    def give(self, place: EarlyPlace) -> None:
        """Give a place back. Safe if it was displaced."""
        with self._lock:
            if place in self._places:
                self._places.remove(place)
