"""Token counts and times of a completion."""

from __future__ import annotations

from msgspec import Struct


class Usage(Struct, frozen=True):
    """Token counts. `cached` prompt tokens were not evaluated again. `continued` is how often the
    answer was resumed on another backend after a failure."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0
    continued: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.completion

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt + other.prompt,
            self.completion + other.completion,
            self.cached + other.cached,
            self.reasoning + other.reasoning,
            self.continued + other.continued,
        )


def tokens_per_second(tokens: int, seconds: float) -> float:
    """The speed of an answer, whose first token comes with the end of its prompt's evaluation.
    `seconds` begin there. 0 if unknown."""
    return (tokens - 1) / seconds if tokens > 1 and seconds > 0 else 0.0


class Timings(Struct, frozen=True, kw_only=True):
    """llama.cpp's timings: token counts and milliseconds of evaluation, as the backend reported
    them; `draft_n` and `draft_n_accepted` count the tokens of speculative decoding."""

    cache_n: int = 0
    prompt_n: int = 0
    prompt_ms: float = 0.0
    predicted_n: int = 0
    predicted_ms: float = 0.0
    draft_n: int = 0
    draft_n_accepted: int = 0
