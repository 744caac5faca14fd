"""Which session a request belongs to, as its client names it.

A session groups the conversations of one agent: its own, those of its sub-agents, and requests for
titles. Clients name it in many ways; the first name of this order counts:

| source | sent by |
|---|---|
| `X-Session-ID`, `X-Litellm-Session-Id`, `X-Conversation-Id` | opencode, LiteLLM, own programs |
| `X-Claude-Code-Session-Id` | Claude Code since 2.1.86 |
| `Session-Id`, `Session_id` | Codex, pi |
| `X-Session-Affinity` | opencode, vLLM's clients |
| `prompt_cache_key`, `session` in the body | OpenAI's SDKs, Codex, llama-server's clients |
| `conversation` in the body: a name, or an object with an `id` | clients of the Responses API |
| `metadata.user_id` in the body: its session | Claude Code |
| `previous_response_id` in the body | OpenAI's SDKs; `responses_dialect` finds the name |

A name is the client's own text: it is never sent to a backend, logged or stored. The scheduler
keeps a digest of it, salted with the group of the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

LONGEST = 512  # characters of a name
LONGEST_USER = 4096  # characters of a user_id that are searched for a session
HEADERS = (
    "HTTP_X_SESSION_ID",
    "HTTP_X_LITELLM_SESSION_ID",
    "HTTP_X_CONVERSATION_ID",
    "HTTP_X_CLAUDE_CODE_SESSION_ID",
    "HTTP_SESSION_ID",
    "HTTP_X_SESSION_AFFINITY",
)
_LEGACY = "_session_"


class _User(Struct):
    """The `user_id` of today's Claude Code: JSON in a string."""

    session_id: str = ""


_user = msgspec.json.Decoder(_User).decode


def session_name(
    environ: Mapping[str, Any], body: Mapping[str, Any] | None = None, parsed: str = ""
) -> str:
    """The name of the session, "" if the client gives none. `parsed` is what the dialect found in
    the body. Values of the wrong type are no names."""
    for header in HEADERS:
        name = environ.get(header)
        if name:
            return str(name)[:LONGEST]
    if parsed:
        return parsed[:LONGEST]
    return _in_body(body)[:LONGEST] if body else ""


def _in_body(body: Mapping[str, Any]) -> str:
    conversation = body.get("conversation")
    if type(conversation) is dict:
        conversation = conversation.get("id")
    if type(conversation) is str and conversation:
        return conversation
    metadata = body.get("metadata")
    if type(metadata) is dict:
        user = metadata.get("user_id")
        if type(user) is str and len(user) <= LONGEST_USER:
            return _of_user(user)
    return ""


def _of_user(user: str) -> str:
    """The session in Claude Code's `metadata.user_id`: `{"device_id": …, "session_id": …}`, or
    `user_…_account_…_session_…` of earlier versions. A plain user id names no session."""
    if user.startswith("{"):
        try:
            return _user(user).session_id
        except msgspec.MsgspecError:
            return ""
    return user.rpartition(_LEGACY)[2] if _LEGACY in user else ""
