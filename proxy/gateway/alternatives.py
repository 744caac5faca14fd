"""The alternatives of tokens in an answer that is not streamed: all of them are in memory together.

One takes some 600 bytes, from the backend's event to the JSON of the answer.
"""

from __future__ import annotations

from ..core.request import CompletionRequest
from ..core.task import Task
from ..errors import InvalidParameter

MOST_ALTERNATIVES = 200_000


def check_alternatives(request: CompletionRequest) -> None:
    """Raises InvalidParameter for a request that asks for too many."""
    if not request.logprobs or request.max_tokens is None:
        return
    most = _kept_tokens(request, request.logprobs)
    if request.max_tokens > most:
        raise InvalidParameter(
            "max_tokens",
            f"allows {request.max_tokens} tokens with {request.logprobs} alternatives each: at most"
            f" {most} can be kept for an answer that is not streamed. Ask for fewer"
            " tokens or alternatives, or stream",
        )


def within_alternatives(task: Task, tokens: int) -> int:
    """The tokens that an answer of at most `tokens` may have."""
    logprobs = task.request.logprobs
    return min(tokens, _kept_tokens(task.request, logprobs)) if logprobs else tokens


def _kept_tokens(request: CompletionRequest, logprobs: int) -> int:
    """The tokens that each choice may have."""
    return 1 << 62 if request.stream else max(1, MOST_ALTERNATIVES // (logprobs * request.choices))
