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
_OPENAI = {"requests": "requests", "tokens": "tokens", "prompt_tokens": "input-tokens"}


def limit_headers(states: Sequence[State], route: str, now: float) -> list[tuple[str, str]]:
    """`route` is that of the request, `now` the time in seconds since 1970."""
    anthropic = route.endswith(MESSAGES)
    headers = []
    for one in states:
        name = _OPENAI[one.quantity]
        if anthropic:
            at = datetime.fromtimestamp(now + one.reset, UTC)
            whole = at.isoformat(timespec="seconds").replace("+00:00", "Z")
            prefix = f"anthropic-ratelimit-{name}-"
            headers += [
                (prefix + "limit", str(one.limit)),
                (prefix + "remaining", str(one.remaining)),
                (prefix + "reset", whole),
            ]
        else:
            headers += [
                (f"x-ratelimit-limit-{name}", str(one.limit)),
                (f"x-ratelimit-remaining-{name}", str(one.remaining)),
                (f"x-ratelimit-reset-{name}", duration(one.reset)),
            ]
    return headers


def duration(seconds: float) -> str:
    """A time as OpenAI writes it, such as 6m0s, 1.5s or 20ms."""
    if seconds < 1:
        return f"{round(1000 * seconds)}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    if not minutes:
        return f"{rest:g}s"
    hours, minutes = divmod(int(minutes), 60)
    return (f"{hours}h" if hours else "") + f"{minutes}m{rest:.0f}s"
