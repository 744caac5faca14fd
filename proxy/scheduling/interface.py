"""The interface that every scheduler offers to the gateway and the registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..runtime.cancel import Cancel
from .lease import Lease, Outcome
from .prefix import Chain
from .state import BackendFacts, SlotRequest
from .ticket import Ticket
from .view import View


class Scheduler(Protocol):
    """The methods are documented at `LocalScheduler`."""

    on_stranded: Callable[[str], None]

    @property
    def notices(self) -> tuple[str, ...]: ...

    @property
    def outstanding(self) -> int: ...

    @property
    def waiting(self) -> int: ...

    def update(
        self,
        name: str,
        facts: BackendFacts,
        *,
        up: bool | None,
        anew: bool = False,
        replaces: bool = False,
    ) -> None: ...

    def mark(self, name: str, up: bool, load_delay: float = 0.0) -> None: ...

    def queued(self, name: str, running: int) -> None: ...

    def drain(self, name: str) -> None: ...

    def chain(
        self, prompt: str | tuple[int, ...], boundaries: tuple[int, ...] = (), group: str = ""
    ) -> Chain: ...

    def acquire(self, want: SlotRequest, cancel: Cancel, again: bool = False) -> Lease: ...

    def enter(self, want: SlotRequest, again: bool = False) -> Lease | Ticket: ...

    def in_flight(self, name: str) -> int: ...

    def slots(self, name: str) -> int: ...

    def idle_slots(self, model: str) -> int: ...

    def cache_worth(self, name: str) -> float: ...

    def view(self, group: str, key: str) -> View: ...

    def leaks(self, lease: Lease, outcome: Outcome) -> bool: ...
