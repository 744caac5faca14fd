"""The alternatives of tokens in an answer that is not streamed: all of them are in memory together.

One takes some 600 bytes, from the backend's event to the JSON of the answer.
"""

from __future__ import annotations

from ..core.request import CompletionRequest
from ..errors import InvalidParameter

MOST_ALTERNATIVES = 200_000


def check_alternatives(request: CompletionRequest) -> None:
    """Raises InvalidParameter for a request with alternatives that asks for too many."""
    if request.max_tokens is None:
        return
    most = _kept_tokens(request)
    if request.max_tokens > most:
        raise InvalidParameter(
            "max_tokens",
            f"allows {request.max_tokens} tokens with {request.logprobs} alternatives each: at most"
            f" {most} can be kept for an answer that is not streamed. Ask for fewer"
            " tokens or alternatives, or stream",
        )


def within_alternatives(request: CompletionRequest, tokens: int) -> int:
    """The tokens that an answer of at most `tokens` may have, with alternatives."""
    return min(tokens, _kept_tokens(request))


def _kept_tokens(request: CompletionRequest) -> int:
    """The tokens that each choice may have."""
    alternatives = (request.logprobs or 1) * request.choices
    return 1 << 62 if request.stream else max(1, MOST_ALTERNATIVES // alternatives)
