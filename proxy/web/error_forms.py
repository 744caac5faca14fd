"""The form of errors that no view makes: an unknown route, a wrong method, another site's page.

Clients of these APIs read errors only in the API's own form; all others know OpenAI's.
"""

from __future__ import annotations

from ..apis.anthropic import error as anthropic_error
from ..apis.mcp import server as mcp_server
from ..apis.ollama import common as ollama
from ..apis.openai import answer as openai
from .spine import Shape

_FORMS: tuple[tuple[str, Shape], ...] = (
    ("/api/", ollama.error),
    ("/mcp", mcp_server.error),
    ("/v1/messages", anthropic_error),
)


def form_of(path: str, prefix: str) -> Shape:
    """The error form of the API that a path belongs to; `prefix` precedes the gateway's paths."""
    own = path.removeprefix(prefix)
    return next((form for start, form in _FORMS if own.startswith(start)), openai.error)
