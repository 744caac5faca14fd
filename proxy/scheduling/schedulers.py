"""What offers slots to the gateway and the registry: a local or a shared scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from .scheduler import LocalScheduler

if TYPE_CHECKING:
    from .shared.scheduler import SharedScheduler  # imported where Redis is used

Scheduler: TypeAlias = "LocalScheduler | SharedScheduler"
