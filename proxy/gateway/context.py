"""The objects and settings shared by all requests of a gateway."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from ..backends.registry import Registry
from ..scheduling.interface import Scheduler
from .postprocess import GenerationSettings


class GatewayContext(Struct, frozen=True, kw_only=True):
    """`clock` returns monotonic seconds. `continues`: a broken answer resumes on another backend.
    `side_jobs` are the texts that the last message of a side job begins with. `ping`: seconds
    between signs of life in a stream that waits for a backend, inf for none."""

    registry: Registry
    scheduler: Scheduler
    clock: Callable[[], float]
    generation: GenerationSettings
    continues: bool = True
    side_jobs: tuple[str, ...] = ()
    ping: float = 15.0
