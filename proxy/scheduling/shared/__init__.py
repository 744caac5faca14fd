"""One table of slots for several processes: a log in Redis that gives all of them one order."""

from .log import LogError, RedisLog
from .scheduler import SharedScheduler

__all__ = ["LogError", "RedisLog", "SharedScheduler"]
