"""What happened to a request."""

from __future__ import annotations

from msgspec import Struct

from ..core.usage import Usage


class Info(Struct):
    """What happened to a request, for headers, the log and metrics.

    `first_place` in the queue when it came, `place` now, 0 for none; `continued` is how often the
    answer went on on another backend; `loading` says which model it waits for. Times in seconds: in
    the queue, and from the request's beginning until it was handed to the backend, until the first
    and until the last token; and those of the backend's own work, on prompts and on tokens.
    `longest` is the size of the longest sequence, prompt and answer."""

    model: str = ""
    backend: str = ""
    slot: int = -1
    queue_wait: float = 0.0
    first_place: int = 0
    place: int = 0
    loading: str = ""
    continued: int = 0
    placed: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0
    evaluating: float = 0.0
    writing: float = 0.0
    longest: int = 0
    usage: Usage = Usage()
    outcome: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def driven(self) -> float:
        """How long the backend had it, so far."""
        return max(0.0, self.last_token - self.placed)
