"""Clients of Redis or Valkey, made alike for everything that workers share."""

from __future__ import annotations

from typing import Any

SECONDS = 2.0  # timeout of a request, and of connecting


def connect(url: str) -> Any:
    """A client for `url` (redis://, rediss:// or unix://, as redis-py accepts it), which connects
    with its first request. Raises ImportError if redis-py is not installed, ValueError for an
    invalid URL."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis.from_url(
        url,
        socket_timeout=SECONDS,
        socket_connect_timeout=SECONDS,
        protocol=2,
        # Without retries: what is written twice is worse than what is not written.
        retry=Retry(NoBackoff(), 0),
    )
