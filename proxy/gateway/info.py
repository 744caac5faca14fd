"""Facts about a request for headers, the log and metrics."""

from __future__ import annotations

from msgspec import Struct

from ..core.usage import Usage


class Info(Struct, kw_only=True):
    """Filled in while the request runs.

    `first_place` is its first position in the queue, `place` the current one, 0 for none.
    `continued` counts resumes on another backend; `loading` is a notice that the model is being
    loaded. Times are in seconds: `queue_wait` in the queue; `placed`, `first_token` and
    `last_token` since the request began; `evaluating` and `writing` are the backend's own times for
    prompts and tokens. `longest` is the length of the longest sequence, prompt and answer, in
    tokens."""

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
        """Seconds since the request was placed on the backend, until the last token so far."""
        return max(0.0, self.last_token - self.placed)
