"""Refusals of servers that speak OpenAI's API, as our errors.

These servers report a prompt that is too long in a message only, and each words it differently.
Clients compact a conversation at that error, so it must not be lost.
"""

from __future__ import annotations

import re

from ...errors import ContextExceeded, GatewayError, UpstreamFault
from ..refusals import MAX_SAID, refusal

# vLLM, SGLang, LM Studio and llama-cpp-python's server, as their sources have them.
_CONTEXT = re.compile(
    r"(?:context length|context window|model length)[^0-9]{0,40}?(?:of|is|\()[^0-9]{0,10}(\d{1,9})",
    re.IGNORECASE,
)
_PROMPT = re.compile(
    r"(?:you requested(?: a total of)?|request has|input \(|prompt \(length|requested tokens \(|"
    r"keep the first) ?(\d{1,9})",
    re.IGNORECASE,
)


def refused(status: int, data: bytes, secret: str = "") -> GatewayError:
    """The error for a status other than 200."""
    if status == 400:
        words = data[: 4 * MAX_SAID].decode("utf-8", "replace")
        if context := _CONTEXT.search(words):
            n_ctx, asked = int(context[1]), _PROMPT.search(words)
            if asked is None:
                return ContextExceeded(n_ctx + 1, n_ctx, at_least=True)
            return ContextExceeded(int(asked[1]), n_ctx)
    if status == 404:
        return UpstreamFault(
            "the backend does not know this model or endpoint: check its url and model",
            detail=refusal(status, data, secret=secret).detail,
        )
    return refusal(status, data, secret=secret)
