"""Parses a body of /v1/messages into a CompletionRequest.

The texts of a message form one content, each tool_result becomes a message of its own in its place,
and thinking becomes the assistant's reasoning. Blocks of Anthropic's server tools are skipped with
a warning: clients replay them and cannot remove them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ...core.conversation import joined
from ...core.request import (
    CompletionRequest,
    Media,
    Message,
    OutputFormat,
    Report,
    Role,
    Tool,
    ToolCall,
    ToolChoice,
)
from ...core.sampling import check
from ...errors import InvalidParameter
from .. import schema_fields as doc
from ..fields import (
    Body,
    bounded,
    entry,
    filled,
    flag,
    ignored_fields,
    integer,
    items,
    mapping,
    model_name,
    plain,
    required,
    stops,
    text,
)
from ..openai.answer import MAX_TOKENS, STOP, tokens
from ..openai.tools import functions
from ..schema_fields import Fields
from . import context_edits, mcp
from .context_edits import COMPACTION, summary_of

# Client-side tools: the shell and the text editor. Clients send only the type, because
# Anthropic's models know the parameters. Other models need a description and a schema. The
# parameters follow the API's documentation; the end of a type is the date of its version.
_TEXT = {"type": "string"}
_NUMBER = {"type": "integer"}
_BASH: Mapping[str, Any] = {
    "description": "Runs a command in a persistent shell and returns its output.",
    "parameters": {
        "type": "object",
        "properties": {"command": _TEXT, "restart": {"type": "boolean"}},
    },
}
_EDITOR: Mapping[str, Any] = {
    "description": "Reads and changes files. `view` shows a file, or its lines view_range, or lists"
    " a folder; `create` writes file_text; `str_replace` puts new_str where old_str stands, which"
    " must stand there once; `insert` adds new_str behind the line insert_line.",
    "parameters": {
        "type": "object",
        "properties": {
            "command": {"type": "string", "enum": ["view", "create", "str_replace", "insert"]},
            "path": _TEXT,
            "view_range": {"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 2},
            "file_text": _TEXT,
            "old_str": _TEXT,
            "new_str": _TEXT,
            "insert_line": _NUMBER,
        },
        "required": ["command", "path"],
    },
}
CLIENT_TOOLS = {"bash_": _BASH, "text_editor_": _EDITOR}


def _client_tool(tool: Body, kind: str) -> dict[str, Any] | None:
    """The tool as a function definition; None if the type is unknown."""
    for prefix, definition in CLIENT_TOOLS.items():
        if kind.startswith(prefix):
            return {**definition, "name": tool.get("name")}
    return None


ROLES: Mapping[str, Role] = {"user": "user", "assistant": "assistant", "system": "system"}
CHOICES: Mapping[str, ToolChoice] = {
    "auto": ToolChoice(),
    "any": ToolChoice("required"),
    "none": ToolChoice("none"),
}
# Claude Code's bookkeeping: it changes with every request, which would invalidate the cached
# prefix.
BILLING = "x-anthropic-billing-header:"

FIELDS: Fields = {
    "model": doc.MODEL,
    "messages": doc.array("The conversation, as strings or blocks.", doc.USER_MESSAGE),
    "max_tokens": tokens("Maximum tokens of the answer.", 0),
    "system": doc.one_of(
        "The system prompt: a string or text blocks.",
        "Be brief.",
        {"anyOf": [doc.TEXT, {"type": "array"}]},
    ),
    "temperature": doc.SAMPLERS["temperature"],
    "top_k": doc.SAMPLERS["top_k"],
    "top_p": doc.SAMPLERS["top_p"],
    "stop_sequences": {**STOP, "description": "Stop strings."},
    "stream": doc.STREAM,
    "tools": doc.array("Tools the model may call.", []),
    "mcp_servers": doc.array("MCP servers whose tools the gateway calls.", []),
    "tool_choice": doc.mapping("`type` auto, any, none, or tool with a `name`.", {"type": "auto"}),
    "thinking": doc.mapping(
        "`type` enabled or disabled; passed to the chat template.", {"type": "disabled"}
    ),
    "metadata": doc.mapping("`user_id`.", {"user_id": "u"}),
    "context_management": doc.mapping(
        "`edits` that clear old tool results and thoughts from the prompt, or sum up old turns.",
        {"edits": [{"type": "clear_tool_uses_20250919"}]},
    ),
    "output_config": doc.mapping("`effort`, and `format` with a JSON schema.", {"effort": "low"}),
    "output_format": doc.mapping(
        "A JSON schema, in the legacy field.", {"type": "json_schema", "schema": {"type": "object"}}
    ),
}


def parse(body: Body, *, counting: bool = False) -> CompletionRequest:
    """Parses a body. `counting` is for count_tokens, which needs no max_tokens. Raises
    InvalidParameter."""
    thinking = mapping(body, "thinking")
    warnings = [
        *ignored_fields(body, FIELDS.keys()),
        *ignored_fields(thinking, {"type"}, "thinking."),
        *context_edits.parse(body)[1],
    ]
    max_tokens = integer(body, "max_tokens", 0, MAX_TOKENS)  # 0: evaluate the prompt only
    if max_tokens is None and not counting:
        raise InvalidParameter("max_tokens", "is missing")
    stream = flag(body, "stream")
    choice = mapping(body, "tool_choice")
    config = mapping(body, "output_config")
    return CompletionRequest(
        model=model_name(body),
        messages=(*_system(body.get("system")), *_messages(body, warnings)),
        sampling={
            name: check(name, body[name])
            for name in ("temperature", "top_k", "top_p")
            if body.get(name) is not None
        },
        max_tokens=max_tokens,
        stop=stops(body, "stop_sequences"),
        stream=stream,
        tools=_tools(items(body, "tools"), warnings),
        servers=mcp.servers(body),
        tool_choice=_choice(choice),
        parallel_tool_calls=not flag(choice, "disable_parallel_tool_use", at="tool_choice."),
        output=_output(body, config),
        reasoning_effort=text(config, "effort", at="output_config."),
        template_kwargs=_thinking(thinking),
        report=Report(prompt=stream),  # message_start has it
        user=text(mapping(body, "metadata"), "user_id", at="metadata."),
        compaction=context_edits.compaction(body) if "context_management" in body else None,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _system(value: Any) -> tuple[Message, ...]:
    if value is None:
        return ()
    if type(value) is str:
        texts = [value]
    elif isinstance(value, list):
        bounded(value, "system")
        blocks = [entry(block, f"system[{i}]") for i, block in enumerate(value)]
        texts = [required(block, "text", f"system[{i}].") for i, block in enumerate(blocks)]
    else:
        raise InvalidParameter("system", "must be a string or a list of text blocks")
    kept = "\n\n".join(t for t in texts if t and not t.startswith(BILLING))
    return (Message(role="system", content=kept),) if kept else ()


def _messages(body: Body, warnings: list[str]) -> list[Message]:
    values = items(body, "messages")
    if not values:
        raise InvalidParameter("messages", "must contain at least one message")
    runs: list[list[Message]] = []
    for i, value in enumerate(values):
        at = f"messages[{i}]"
        message = entry(value, at)
        summary = summary_of(message, at)
        if summary is not None:  # it replaces everything before it
            runs = [[summary]]
        role = ROLES.get(text(message, "role", at=at + "."))
        if role is None:
            raise InvalidParameter(at + ".role", "must be user or assistant")
        turn = _Turn(role, warnings).read(message.get("content"), at + ".content")
        if summary is not None and turn == [Message(role=role)]:
            continue  # it has nothing else
        if role != "system" and runs and runs[-1][-1].role == turn[0].role == role:
            runs[-1].append(turn.pop(0))
        runs += [[message] for message in turn]
    return [joined(*run) for run in runs]


class _Turn:
    """Collects the blocks of one message into canonical messages."""

    def __init__(self, role: Role, warnings: list[str]) -> None:
        self._role = role
        self._warnings = warnings
        self._texts: list[str] = []
        self._parts: list[int] = []
        self._length = 0  # of the texts, each with a line break
        self._thoughts: list[str] = []
        self._media: list[Media] = []
        self._calls: list[ToolCall] = []

    def read(self, content: Any, at: str) -> list[Message]:
        if type(content) is str:
            return [Message(role=self._role, content=content)]
        if not isinstance(content, list):
            raise InvalidParameter(at, "must be a string or a list of blocks")
        bounded(content, at)
        out: list[Message] = []
        for i, value in enumerate(content):
            path = f"{at}[{i}]"
            block = entry(value, path)
            if block.get("type") in ("tool_result", mcp.RESULT):
                out += self._flush()
                out.append(self._result(block, path + "."))
            else:
                self._block(block, path + ".")
        out += self._flush()
        return out or [Message(role=self._role)]

    def _flush(self) -> list[Message]:
        if not (self._texts or self._thoughts or self._media or self._calls):
            return []
        message = Message(
            role=self._role,
            content="\n".join(self._texts),
            reasoning="\n".join(self._thoughts),
            media=tuple(self._media),
            tool_calls=tuple(self._calls),
            parts=tuple(self._parts) if len(self._parts) > 1 else (),
        )
        self._texts, self._thoughts, self._media, self._calls = [], [], [], []
        self._parts, self._length = [], 0
        return [message]

    def _block(self, block: Body, at: str) -> None:
        kind = text(block, "type", at=at)
        if kind == "text":
            self._say(required(block, "text", at))
        elif kind == "thinking":
            self._thoughts.append(text(block, "thinking", at=at))
        elif kind == "image":
            image = _image(mapping(block, "source", at), at + "source.")
            self._media.append(msgspec.structs.replace(image, at=max(0, self._length - 1)))
        elif kind == "tool_use":
            arguments = msgspec.json.encode(mapping(block, "input", at)).decode()
            self._calls.append(
                ToolCall(filled(block, "id", at), filled(block, "name", at), arguments)
            )
        elif kind == COMPACTION:
            pass  # read before
        elif kind == mcp.USE:
            self._calls.append(mcp.call(block, at))
        elif kind == "document":
            self._document(block, at)
        elif kind == "search_result":
            self._say(text(block, "title", at=at))
            self._nested(items(block, "content", at), at)
        elif not kind:
            raise InvalidParameter(at + "type", "is missing")
        else:
            self._warnings.append(f"content blocks of type {plain(kind)} are ignored")

    def _say(self, content: str) -> None:
        self._texts.append(content)
        self._parts.append(self._length)
        self._length += len(content) + 1

    def _nested(self, blocks: list[Any], at: str) -> None:
        for i, value in enumerate(blocks):
            path = f"{at}content[{i}]"
            self._block(entry(value, path), path + ".")

    def _document(self, block: Body, at: str) -> None:
        """Adds a document's text. `apis.attachments` has replaced those without one."""
        source = mapping(block, "source", at)
        kind = text(source, "type", at=at + "source.")
        if kind == "text":
            title = text(block, "title", at=at)
            data = text(source, "data", at=at + "source.")
            self._say(f"{title}\n{data}" if title else data)
        elif kind == "content":
            content = source.get("content")
            if type(content) is str:
                self._say(content)
            else:
                self._nested(items(source, "content", at + "source."), at + "source.")
        else:
            raise InvalidParameter(at + "source.type", "must be text, content, base64, file or url")

    def _result(self, block: Body, at: str) -> Message:
        """A tool's result. An error is marked in the text, since templates have no field for it."""
        inner = _Turn("tool", self._warnings)
        content = block.get("content")
        if content is None:
            content = ""
        (message,) = inner.read(content, at + "content")
        message = msgspec.structs.replace(
            message, role="tool", tool_call_id=filled(block, "tool_use_id", at)
        )
        failed = flag(block, "is_error", at=at)
        if failed and not message.content.lower().startswith("error"):
            message = message.after("Error: ")
        return message


def _image(source: Body, at: str) -> Media:
    kind = text(source, "type", at=at)
    if kind == "base64":
        media_type = text(source, "media_type", at=at)
        return Media(kind="image", url=f"data:{media_type};base64,{text(source, 'data', at=at)}")
    if kind == "url":
        return Media(kind="image", url=text(source, "url", at=at))
    raise InvalidParameter(at + "type", "must be base64 or url")


def _tools(values: list[Any], warnings: list[str]) -> tuple[Tool, ...]:
    offered = []
    for i, value in enumerate(values):
        at = f"tools[{i}]."
        tool = entry(value, at[:-1])
        kind = text(tool, "type", "custom", at=at)
        if kind == "custom":
            offered.append({**tool, "parameters": mapping(tool, "input_schema", at)})
        elif (known := _client_tool(tool, kind)) is not None:
            offered.append(known)
        elif kind == mcp.TOOLSET:
            continue
        else:
            warnings.append(f"tools of type {plain(kind)} are ignored")
    return functions(offered)


def _choice(value: Body) -> ToolChoice:
    kind = text(value, "type", "auto", at="tool_choice.")
    if kind == "tool":
        name = text(value, "name", at="tool_choice.")
        if not name:
            raise InvalidParameter("tool_choice.name", "is missing")
        return ToolChoice("named", name)
    choice = CHOICES.get(kind)
    if choice is None:
        raise InvalidParameter("tool_choice.type", "must be auto, any, tool or none")
    return choice


def _output(body: Body, config: Body) -> OutputFormat:
    """`output_config.format`, or `output_format` from clients of the beta."""
    at, value = "output_config.format.", mapping(config, "format", "output_config.")
    if not value:
        at, value = "output_format.", mapping(body, "output_format")
    if not value:
        return OutputFormat()
    if text(value, "type", at=at) != "json_schema":
        raise InvalidParameter(at + "type", "must be json_schema")
    schema = value.get("schema")
    if not isinstance(schema, dict):
        raise InvalidParameter(at + "schema", "must be an object")
    return OutputFormat("json_schema", schema, "output", strict=True)


def _thinking(value: Body) -> dict[str, Any]:
    """Template arguments for the switch that some templates have; `adaptive` leaves the default."""
    kind = text(value, "type", "adaptive", at="thinking.")
    if kind in ("enabled", "disabled"):
        return {"enable_thinking": kind == "enabled"}
    if kind not in ("adaptive", "between_tools"):
        raise InvalidParameter("thinking.type", "must be enabled, disabled or adaptive")
    return {}
