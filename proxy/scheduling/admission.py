"""What others ask of a scheduler, whichever it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..cancel import Cancel
from .lease import Lease, Outcome
from .prefix import Chain
from .state import Keeps, Want
from .ticket import Ticket
from .view import View


class Admission(Protocol):
    """Documented at `scheduler.Scheduler`."""

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
        model: str,
        *,
        up: bool | None,
        slots: int,
        weight: float = 1.0,
        pins: bool = True,
        keeps: Keeps = "nothing",
        settles: float = 0.0,
        anew: bool = False,
        replaces: bool = False,
    ) -> None: ...

    def mark(self, name: str, up: bool, awaits: float = 0.0) -> None: ...

    def drain(self, name: str) -> None: ...

    def chain(
        self, prompt: str | tuple[int, ...], boundaries: tuple[int, ...] = (), group: str = ""
    ) -> Chain: ...

    def acquire(self, want: Want, cancel: Cancel, again: bool = False) -> Lease: ...

    def enter(self, want: Want, again: bool = False) -> Lease | Ticket: ...

    def in_flight(self, name: str) -> int: ...

    def slots(self, name: str) -> int: ...

    def view(self, group: str, key: str) -> View: ...

    def leaks(self, lease: Lease, outcome: Outcome) -> bool: ...
