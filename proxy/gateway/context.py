"""What a request comes with and leaves behind, and what all requests of a gateway share."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
from msgspec import Struct

from ..accounts.limiting.allowance import Allowance
from ..accounts.rights import ALL, Permissions
from ..backends.registry import Registry
from ..core.usage import Usage
from ..errors import QueueFull
from ..scheduling.base import PLACE_LOST
from ..scheduling.fair import displaced
from ..scheduling.schedulers import Scheduler
from .generation import GenerationSettings
from .idle import RetryBudget


# A queue for requests that arrive before the first backend has reported its model.
#
# Until then there is no chat template, and no model's queue to wait in.
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


class GatewayContext(Struct, frozen=True, kw_only=True):
    """`clock` returns monotonic seconds. `continues`: a broken answer resumes on another backend.
    `side_jobs` are the texts that the last message of a side job begins with. `ping`: seconds
    between signs of life in a stream that waits for a backend, inf for none. `retries` bounds the
    retries of all requests together."""

    registry: Registry
    scheduler: Scheduler
    clock: Callable[[], float]
    generation: GenerationSettings
    continues: bool = True
    side_jobs: tuple[str, ...] = ()
    ping: float = 15.0
    retries: RetryBudget = msgspec.field(default_factory=RetryBudget)


class Caller(Struct, frozen=True, kw_only=True):
    """The caller of a request, as the scheduler and the ledger see it.

    `key` is the name of the API key, `user` and `team` the ids of its user and team, "" for none.
    Only requests of the same `group` share cached prompts. `share` is the weight of the key's class
    in the queue. `background` marks a side job, which avoids evicting others' prompts; `idle` a
    request that uses idle slots only, and is cancelled when others need its slot. `begun`: a part
    of its answer is done, so it waits for an idle slot as long as it must.
    `tell_place`: report the place in the queue in the stream. `may` says which models may be
    used, and which tiers of routes may not. `allowance` is what the request may take
    from the limits of its key, None without limits. `on_overflow` says what happens to
    conversations that do not fit, refuse or compact; "": what is set for the model."""

    key: str = ""
    user: str = ""
    team: str = ""
    group: str = ""
    share: float = 1.0
    background: bool = False
    idle: bool = False
    begun: bool = False
    tell_place: bool = False
    may: Permissions = ALL
    allowance: Allowance | None = None
    on_overflow: str = ""


ANYBODY = Caller()


class Info(Struct, kw_only=True):
    """Facts about a request for headers, the log and metrics, filled in while it runs.

    `first_place` is its first position in the queue, `place` the current one, 0 for none.
    `continued` counts resumes on another backend; `loading` is a notice that the model is being
    loaded. Times are in seconds: `queue_wait` in the queue; `placed`, `first_token` and
    `last_token` since the request began; `evaluating` and `writing` are the backend's own times for
    prompts and tokens. `slot_seconds` is how long slots were leased, added up over all choices and
    runs. `longest` is the length of the longest sequence, prompt and answer, in tokens. `tier` is
    the backend's tier in a route. `passed` names the backends that were passed over, and why:
    `down`, `paused`, `busy`, `barred`, or by a fault of this request `failed`, `timeout` or
    `refused`.

    `has_effects`: tools have run for the answer, which another try would repeat.

    `kinds` are those of `prompting.profile.verify` because of which the backend renders the prompt.

    `compacted` is the number of messages that a summary replaced.

    `usage` is that of the answer, with what the summary cost. Of choices that did not end, it has
    the tokens so far."""

    model: str = ""
    backend: str = ""
    tier: str = ""
    passed: tuple[tuple[str, str], ...] = ()
    slot: int = -1
    queue_wait: float = 0.0
    first_place: int = 0
    place: int = 0
    loading: str = ""
    continued: int = 0
    placed: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0
    choices: int = 0
    evaluating: float = 0.0
    writing: float = 0.0
    slot_seconds: float = 0.0
    longest: int = 0
    usage: Usage = Usage()
    outcome: str = ""
    has_effects: bool = False
    kinds: tuple[str, ...] = ()
    compacted: int = 0
    warnings: tuple[str, ...] = ()
