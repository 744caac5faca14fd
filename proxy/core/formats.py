"""The formats of an answer that a server may not know: ways to call tools, and schemas.

The names of the first are those of `ToolChoice.mode`.
"""

from __future__ import annotations

from .request import CompletionRequest

SCHEMAS = "schemas"
AUTO = frozenset({"auto"})
TOOLS = frozenset({"auto", "required", "named"})
REQUIRED = frozenset({"required", "named"})
FORMATS = TOOLS | {SCHEMAS}
# By the names of the setting `by_prompt`.
BY_PROMPT = {"tools": TOOLS, "required": REQUIRED, "schemas": frozenset({SCHEMAS})}


def describes_tools(request: CompletionRequest, by_prompt: frozenset[str]) -> bool:
    """Whether the messages must describe the tools to a server that does not know `by_prompt`."""
    return bool(request.tools) and request.tool_choice.mode in by_prompt


def describes_document(request: CompletionRequest, by_prompt: frozenset[str]) -> bool:
    """Whether they must describe the document: a server that enforced it would allow no calls."""
    if request.output.kind == "text":
        return False
    return SCHEMAS in by_prompt or describes_tools(request, by_prompt)


def rewrites(request: CompletionRequest, by_prompt: frozenset[str]) -> bool:
    """Whether a server that does not know `by_prompt` needs other messages than the client's:
    earlier calls and results are texts for it, too."""
    if not (by_prompt and request.is_chat):
        return False
    if describes_tools(request, by_prompt) or describes_document(request, by_prompt):
        return True
    return "auto" in by_prompt and any(m.tool_calls or m.role == "tool" for m in request.messages)
