"""What offers slots to the gateway and the registry: a local or a shared scheduler."""

from __future__ import annotations

from .scheduler import LocalScheduler
from .shared.scheduler import SharedScheduler

Scheduler = LocalScheduler | SharedScheduler
