"""The fields of a request that its Response object repeats, as the Open Responses schema requires:
each is present, with its default if the request leaves it out.

A sampling field that the request leaves out is repeated with the API's default, although the
backend, or `--sampling`, may set another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.request import CompletionRequest
from ..conversations import objects as conversations
from ..fields import Body, entry, mapping, text
from . import mcp

# Sampling fields of the request, with the API's defaults.
SAMPLING: Mapping[str, float] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
TIER = "default"  # every request is served alike
# Optional fields of tools, by type; the schema wants all of them.
TOOLS: Mapping[str, Mapping[str, Any]] = {
    "function": {"description": None, "parameters": None, "strict": False},
    "custom": {"description": None, "format": {"type": "text"}},
    "file_search": {
        "max_num_results": 5,
        "ranking_options": {"ranker": "auto", "score_threshold": 0.0},
        "filters": None,
    },
    "web_search": {"user_location": None, "search_context_size": "medium"},
    "mcp": {
        "allowed_tools": None,
        "headers": None,
        "require_approval": "always",
        "server_description": None,
    },
}
FORMAT: Mapping[str, Any] = {"description": None, "strict": False}


def repeated(body: Body, request: CompletionRequest, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` are the fields that the parser has read itself, and take precedence. Raises
    InvalidParameter."""
    key = conversations.named(body)
    return {
        **({"conversation": {"id": key}} if key else {}),
        **{name: request.sampling.get(name, SAMPLING[name]) for name in SAMPLING},
        "instructions": None,
        "max_tool_calls": request.max_tool_calls,
        "metadata": mapping(body, "metadata"),
        "parallel_tool_calls": request.parallel_tool_calls,
        "previous_response_id": text(body, "previous_response_id") or None,
        "prompt_cache_key": request.session or None,
        "reasoning": {"effort": request.reasoning_effort or None, "summary": None},
        "safety_identifier": text(body, "safety_identifier") or None,
        "service_tier": TIER,
        "text": {"format": _format(mapping(mapping(body, "text"), "format", "text."))},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": [_tool(tool, f"tools[{i}]") for i, tool in enumerate(body.get("tools") or ())],
        "user": request.user or None,
        **values,
    }


def _format(form: Body) -> Body:
    if not form:
        return {"type": "text"}
    return _whole(form, FORMAT) if form.get("type") == "json_schema" else form


def _tool(value: Any, at: str) -> Body:
    """The tool with all fields of its type."""
    tool = entry(value, at)
    kind = text(tool, "type", "function", at=at + ".")
    defaults = TOOLS.get("web_search" if kind.startswith("web_search") else kind, {})
    whole = _whole(mcp.repeated(tool) if kind == "mcp" else tool, defaults)
    if kind == "file_search":
        options = mapping(tool, "ranking_options", at + ".")
        whole["ranking_options"] = _whole(options, defaults["ranking_options"])
    return whole


def _whole(body: Body, defaults: Body) -> dict[str, Any]:
    """The body with all fields that have a default; null counts as absent."""
    given = {name: value for name, value in body.items() if value is not None}
    return {**given, **{name: defaults[name] for name in defaults if name not in given}}
