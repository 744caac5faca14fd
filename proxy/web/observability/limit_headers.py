"""Headers that tell what is left of the limits of a key.

OpenAI's form, and for /v1/messages Anthropic's:
https://platform.openai.com/docs/guides/rate-limits and
https://docs.anthropic.com/en/api/rate-limits
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from ...accounts.limiting.allowance import State

MESSAGES = "/v1/messages"
_NAMES = {"requests": "requests", "tokens": "tokens", "prompt_tokens": "input-tokens"}
_FIELDS = ("limit", "remaining", "reset")
_OPENAI = {
    quantity: [f"x-ratelimit-{field}-{name}" for field in _FIELDS]
    for quantity, name in _NAMES.items()
}
_ANTHROPIC = {
    quantity: [f"anthropic-ratelimit-{name}-{field}" for field in _FIELDS]
    for quantity, name in _NAMES.items()
}


def limit_headers(states: Sequence[State], route: str, now: float) -> list[tuple[str, str]]:
    """`route` is that of the request, `now` the time in seconds since 1970."""
    anthropic = route.endswith(MESSAGES)
    headers = []
    for one in states:
        limit, remaining, reset = (_ANTHROPIC if anthropic else _OPENAI)[one.quantity]
        headers += [
            (limit, str(one.limit)),
            (remaining, str(one.remaining)),
            (reset, _at(now + one.reset) if anthropic else duration(one.reset)),
        ]
    return headers


def _at(moment: float) -> str:
    """A moment as Anthropic writes it, such as 2026-01-02T03:04:05Z."""
    at = datetime.fromtimestamp(moment, UTC)
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")


def duration(seconds: float) -> str:
    """A time as OpenAI writes it, such as 6m0s, 1.5s or 20ms."""
    if seconds < 1:
        return f"{round(1000 * seconds)}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    if not minutes:
        return f"{rest:g}s"
    hours, minutes = divmod(int(minutes), 60)
    return (f"{hours}h" if hours else "") + f"{minutes}m{rest:.0f}s"
