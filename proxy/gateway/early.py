"""Requests that wait until the first backend has told its model: before that there is no template,
and no queue of a model to stand in."""

from __future__ import annotations

import threading

from ..errors import QueueFull
from ..scheduling.fair import displaced
from ..scheduling.waiting import PLACE_LOST


class EarlyPlace:
    """The place of one request of `key`."""

    again = False

    def __init__(self, key: str) -> None:
        self.key = key


class EarlyQueue:
    """`most` places, which keys share as they share the queue."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._places: list[EarlyPlace] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._places)

    def take(self, key: str) -> EarlyPlace:
        """A place, to be given back. Raises QueueFull."""
        place = EarlyPlace(key)
        with self._lock:
            if len(self._places) >= self._most:
                other = displaced(self._places, key)
                if other is None:
                    raise QueueFull("too many requests wait for the first backend", retry_after=1.0)
                self._places.remove(other)
            self._places.append(place)
        return place

    def check(self, place: EarlyPlace) -> None:
        """Raises QueueFull when the place was given to another key."""
        if place not in self._places:
            raise QueueFull(PLACE_LOST, retry_after=1.0)

    def give(self, place: EarlyPlace) -> None:
        """Safe for a place that was lost."""
        with self._lock:
            if place in self._places:
                self._places.remove(place)
