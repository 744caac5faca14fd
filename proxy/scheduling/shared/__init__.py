"""One table of slots for several processes, kept in order by a log in Redis."""

from .log import LogError, RedisLog
from .scheduler import SharedScheduler

__all__ = ["LogError", "RedisLog", "SharedScheduler"]
