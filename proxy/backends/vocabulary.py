"""The size of a model's vocabulary: a token id outside of it crashes an old server.

A new server reports it in /v1/models. An old one reveals it: in the settings at the end of an
answer, it repeats those pairs of `logit_bias` whose ids exist. Two answers to an empty prompt give
the exact number, even if the last ids are control tokens, which /detokenize cannot show. They are
requested when the first ids come, and cached until the backend is probed again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence

from ..errors import BackendBusy, BadRequest, Unsupported
from .driver import Capabilities, Driver

STEP = 1024
MOST = STEP * STEP  # ids; larger than any vocabulary

Existing = Callable[[Sequence[int]], set[int]]


class Vocabulary:
    """The vocabulary of the model behind one backend."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._lock = threading.Lock()
        self._size: int | None = 0

    def size(self, caps: Capabilities) -> int | None:
        """The number of token ids, 0 if unknown, None if it does not matter. Raises like
        `Driver.n_vocab`."""
        if caps.n_vocab or caps.queues:
            return caps.n_vocab or None
        with self._lock:
            if not self._size:
                self._size = self._driver.n_vocab()
            return self._size

    def clear(self) -> None:
        """Forget the size, because the backend may have another model now."""
        self._size = 0

    def check(self, ids: Collection[int], caps: Capabilities, param: str) -> None:
        """Raises BadRequest for an id outside of the vocabulary, Unsupported if the size of an old
        backend's vocabulary is unknown, and the errors of `size`."""
        if not ids:
            return
        size = self.size(caps)
        if size:
            within(ids, size, param)
        elif size is not None:
            raise Unsupported(
                "this model's backend does not report its vocabulary, so token ids cannot be"
                " checked: send text",
                param=param,
            )

    def check_harmless(self, ids: Collection[int], caps: Capabilities, param: str) -> None:
        """Like `check`, for a use that survives a wrong id: passes if the size is unknown."""
        try:
            self.check(ids, caps, param)
        except (BackendBusy, Unsupported):
            return


def within(ids: Iterable[int], size: int, param: str) -> None:
    """Raises BadRequest for the first id outside of a vocabulary of `size` ids."""
    wrong = next((token for token in ids if not 0 <= token < size), None)
    if wrong is not None:
        raise BadRequest(
            f"{param} contains the token id {wrong}: this model's ids are 0 to {size - 1}",
            param=param,
        )


def counted(existing: Existing) -> int:
    """The number of ids. `existing` returns those ids of a collection that exist, and may raise. 0
    if its answers are not plausible."""
    coarse = existing(range(0, MOST, STEP)).intersection(range(0, MOST, STEP))
    if not coarse or MOST - STEP in coarse:
        return 0  # a server that repeats every id reveals nothing
    top = max(coarse)
    return (
        max(existing(range(top, top + STEP)).intersection(range(top, top + STEP)), default=-1) + 1
    )
