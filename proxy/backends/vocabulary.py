"""How many tokens a model's vocabulary has: an id outside of it ends an old server.

A new server says so in /v1/models. An old one says it by the way: of a `logit_bias` it repeats the
pairs whose ids exist, in the settings at the end of an answer. Two answers to an empty prompt give
the exact number, also where the last ids are control tokens, which /detokenize cannot show. They
are asked for when the first ids come, and remembered until the backend is probed again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol, runtime_checkable

from ..errors import BackendBusy, BadRequest, Unsupported
from .driver import Capabilities, Driver

STEP = 1024
MOST = STEP * STEP  # ids: no vocabulary is larger

Existing = Callable[[Sequence[int]], set[int]]


@runtime_checkable
class CountsVocabulary(Protocol):
    """A driver whose backend must be asked how many token ids there are."""

    def n_vocab(self) -> int:
        """The number of token ids, 0 where the backend does not tell. What its slots hold stays as
        it is. Raises BackendBusy where no slot is free."""


class Vocabulary:
    """The vocabulary of the model behind one backend."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._lock = threading.Lock()
        self._size = 0

    def size(self, caps: Capabilities) -> int:
        """The number of token ids, 0 where nobody knows. Raises as `CountsVocabulary` does."""
        if caps.n_vocab or caps.queues or not isinstance(self._driver, CountsVocabulary):
            return caps.n_vocab
        with self._lock:
            if not self._size:
                self._size = self._driver.n_vocab()
            return self._size

    def clear(self) -> None:
        """Forget: another model may be behind the backend now."""
        self._size = 0

    def check(self, ids: Collection[int], caps: Capabilities, param: str) -> None:
        """Raises BadRequest for an id outside of the vocabulary, Unsupported where an old backend
        does not tell how many there are, and what `size` does."""
        if not ids:
            return
        size = self.size(caps)
        if size:
            within(ids, size, param)
        elif not caps.queues and isinstance(self._driver, CountsVocabulary):
            raise Unsupported(
                "the backend of this model does not tell its vocabulary, so it gets no token ids:"
                " send text",
                param=param,
            )

    def check_harmless(self, ids: Collection[int], caps: Capabilities, param: str) -> None:
        """As `check`, for a use that survives a wrong id: passed where nobody can tell now."""
        try:
            self.check(ids, caps, param)
        except (BackendBusy, Unsupported):
            return


def within(ids: Iterable[int], size: int, param: str) -> None:
    """Raises BadRequest naming the first id that is none of the `size` ids there are."""
    wrong = next((one for one in ids if not 0 <= one < size), None)
    if wrong is not None:
        raise BadRequest(
            f"{param} holds the token id {wrong}: the ids of this model are 0 to {size - 1}",
            param=param,
        )


def counted(existing: Existing) -> int:
    """The number of ids, of which `existing` tells those that are ids among some; 0 where it is not
    to be believed. Raises what that does."""
    coarse = existing(range(0, MOST, STEP)).intersection(range(0, MOST, STEP))
    if not coarse or MOST - STEP in coarse:
        return 0  # one that repeats whatever it is given tells nothing
    top = max(coarse)
    return (
        max(existing(range(top, top + STEP)).intersection(range(top, top + STEP)), default=-1) + 1
    )
