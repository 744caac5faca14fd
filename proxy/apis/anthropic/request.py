"""Parses a body of /v1/messages into a CompletionRequest.

Each tool_result becomes a message of its own, and thinking becomes the assistant's reasoning.
Blocks of other server tools than the web search are skipped with a warning: clients cannot remove
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ...core.conversation import joined
from ...core.mcp import Approval, McpServer, ToolFilter, function_name
from ...core.request import (
    CompletionRequest,
    Media,
    Message,
    OutputFormat,
    Report,
    Role,
    Search,
    Tool,
    ToolCall,
    ToolChoice,
)
from ...core.sampling import check
from ...errors import InvalidParameter
from .. import fields
from .. import schema_fields as doc
from ..contents import Content, role_of
from ..fields import Body
from ..openai.answer import MAX_TOKENS, STOP, output_format, tokens
from ..openai.tools import functions
from ..responses.mcp import MOST_SERVERS, authorization, server_label
from ..schema_fields import Fields
from . import context_edits, web_search
from .context_edits import COMPACTION, summary_of

# Client-side tools: the shell and the text editor. Clients send only the type, because
# Anthropic's models know the parameters. Other models need a description and a schema. The
# parameters follow the API's documentation; the end of a type is the date of its version.
CLIENT_TOOLS: Mapping[str, Mapping[str, Any]] = {
    "bash_": {
        "description": "Runs a command in a persistent shell and returns its output.",
        "parameters": doc.object_of(command=doc.TEXT, restart={"type": "boolean"}),
    },
    "text_editor_": {
        "description": "Reads and changes files. `view` shows a file, or its lines view_range, or"
        " lists a folder; `create` writes file_text; `str_replace` puts new_str where old_str"
        " stands, which must stand there once; `insert` adds new_str behind the line insert_line.",
        "parameters": doc.object_of(
            "command path",
            command={**doc.TEXT, "enum": ["view", "create", "str_replace", "insert"]},
            path=doc.TEXT,
            view_range={**doc.list_of(doc.COUNT), "minItems": 2, "maxItems": 2},
            file_text=doc.TEXT,
            old_str=doc.TEXT,
            new_str=doc.TEXT,
            insert_line=doc.COUNT,
        ),
    },
}
ROLES = ("user", "assistant", "system")
CHOICES: Mapping[str, ToolChoice] = {
    "auto": ToolChoice(),
    "any": ToolChoice("required"),
    "none": ToolChoice("none"),
}
# Claude Code's bookkeeping: it changes with every request, which would invalidate the cached
# prefix.
BILLING = "x-anthropic-billing-header:"
SAMPLERS = ("temperature", "top_k", "top_p", "lora")

FIELDS: Fields = {
    "model": doc.MODEL,
    "messages": doc.array("The conversation, as strings or blocks.", doc.USER_MESSAGE),
    "max_tokens": tokens("Maximum tokens of the answer.", 0),
    "system": doc.one_of(
        "The system prompt: a string or text blocks.",
        "Be brief.",
        {"anyOf": [doc.TEXT, {"type": "array"}]},
    ),
    **{name: doc.SAMPLERS[name] for name in SAMPLERS},
    "stop_sequences": {**STOP, "description": "Stop strings."},
    "stream": doc.STREAM,
    "capture": doc.CAPTURE,
    "tools": doc.array("Tools the model may call; `web_search_…` is run by the gateway.", []),
    "mcp_servers": doc.array("MCP servers whose tools the gateway calls.", []),
    "tool_choice": doc.mapping("`type` auto, any, none, or tool with a `name`.", {"type": "auto"}),
    "thinking": doc.mapping(
        "`type` enabled or disabled, passed to the chat template; `budget_tokens`.",
        {"type": "disabled"},
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
    """`counting`: for count_tokens, which needs no max_tokens."""
    thinking = fields.mapping(body, "thinking")
    management = context_edits.parse(body)
    warnings = [
        *fields.ignored_fields(body, FIELDS.keys()),
        *fields.ignored_fields(thinking, {"type", "budget_tokens"}, "thinking."),
        *management.warnings,
    ]
    max_tokens = fields.integer(body, "max_tokens", 0, MAX_TOKENS)  # 0: evaluate the prompt only
    if max_tokens is None and not counting:
        raise InvalidParameter("max_tokens", "is missing")
    stream = fields.flag(body, "stream")
    choice = fields.mapping(body, "tool_choice")
    config = fields.mapping(body, "output_config")
    tools, searches = _tools(body, warnings)
    return CompletionRequest(
        model=fields.model_name(body),
        messages=(*_system(body.get("system")), *_messages(body, warnings)),
        sampling={name: check(name, body[name]) for name in SAMPLERS if body.get(name) is not None},
        max_tokens=max_tokens,
        stop=fields.stops(body, "stop_sequences"),
        stream=stream,
        tools=tools,
        searches=searches,
        servers=_servers(body),
        tool_choice=_choice(choice),
        parallel_tool_calls=not fields.flag(choice, "disable_parallel_tool_use", at="tool_choice."),
        output=_output(body, config),
        reasoning_effort=fields.text(config, "effort", at="output_config."),
        reasoning_tokens=fields.integer(thinking, "budget_tokens", 0, MAX_TOKENS, at="thinking."),
        template_kwargs=_thinking(thinking),
        report=Report(prompt=stream),  # message_start has it
        user=fields.text(fields.mapping(body, "metadata"), "user_id", at="metadata."),
        compaction=management.compaction,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _system(value: Any) -> tuple[Message, ...]:
    if value is None:
        return ()
    if type(value) is str:
        texts = [value]
    elif isinstance(value, list):
        blocks = fields.entries(value, "system")
        texts = [fields.required(block, "text", at) for block, at in blocks]
    else:
        raise InvalidParameter("system", "must be a string or a list of text blocks")
    content = "\n\n".join(t for t in texts if t and not t.startswith(BILLING))
    return (Message(role="system", content=content),) if content else ()


def _messages(body: Body, warnings: list[str]) -> list[Message]:
    runs: list[list[Message]] = []
    for message, at in fields.objects(body, "messages"):
        role, content = role_of(message, ROLES, at), message.get("content")
        if type(content) is str:  # as most
            turn = [Message(role=role, content=content)]
        else:
            turn = _Turn(role, warnings).read(content, at + "content")
            if (summary := summary_of(message, at)) is not None:
                runs = [[summary]]  # it replaces everything before it
                if turn == [Message(role=role)]:
                    continue  # it has nothing else
        if role != "system" and runs and runs[-1][-1].role == turn[0].role == role:
            runs[-1].append(turn.pop(0))
        runs += [[message] for message in turn]
    if not runs:
        raise InvalidParameter("messages", "must contain at least one message")
    return [joined(*run) for run in runs]


class _Turn:
    """Collects the blocks of one message into canonical messages."""

    def __init__(self, role: Role, warnings: list[str]) -> None:
        self._role = role
        self._warnings = warnings
        self._content = Content()
        self._calls: list[ToolCall] = []

    def read(self, content: Any, at: str) -> list[Message]:
        if type(content) is str:
            return [Message(role=self._role, content=content)]
        if not isinstance(content, list):
            raise InvalidParameter(at, "must be a string or a list of blocks")
        turn: list[Message] = []
        for block, path in fields.entries(content, at):
            if block.get("type") in ("tool_result", "mcp_tool_result"):
                turn += self._flush()
                turn.append(self._result(block, path))
            elif block.get("type") == web_search.RESULT:
                turn += self._flush()
                turn.append(web_search.message(block, path))
            else:
                self._block(block, path)
        turn += self._flush()
        return turn or [Message(role=self._role)]

    def _flush(self) -> list[Message]:
        if self._content.is_empty and not self._calls:
            return []
        message = self._content.message(self._role, tool_calls=tuple(self._calls))
        self._content, self._calls = Content(), []
        return [message]

    def _block(self, block: Body, at: str) -> None:
        match fields.text(block, "type", at=at):
            case "text":
                self._content.say(fields.required(block, "text", at))
            case "thinking":
                self._content.thoughts.append(fields.text(block, "thinking", at=at))
            case "image":
                self._content.show(_image(fields.mapping(block, "source", at), at + "source."))
            case "tool_use" | "mcp_tool_use" | web_search.USE as kind if (
                kind != web_search.USE or block.get("name") == web_search.NAME
            ):
                arguments = msgspec.json.encode(fields.mapping(block, "input", at)).decode()
                id, name = fields.filled(block, "id", at), fields.filled(block, "name", at)
                if kind == "mcp_tool_use":
                    name = function_name(fields.text(block, "server_name", at=at), name)
                self._calls.append(ToolCall(id, name, arguments))
            case "document":
                self._document(block, at)
            case "search_result":
                self._content.say(fields.text(block, "title", at=at))
                self._nested(block, at)
            case "":
                raise InvalidParameter(at + "type", "is missing")
            case kind if kind != COMPACTION:  # which was read before
                self._warnings.append(
                    f"content blocks of type {fields.header_safe(kind)} are ignored"
                )

    def _nested(self, block: Body, at: str) -> None:
        for part, path in fields.objects(block, "content", at):
            self._block(part, path)

    def _document(self, block: Body, at: str) -> None:
        """Adds a document's text. `apis.contents` has replaced those without one."""
        source, at = fields.mapping(block, "source", at), at + "source."
        kind = fields.text(source, "type", at=at)
        if kind == "text":
            title = fields.text(block, "title", at=at)
            data = fields.text(source, "data", at=at)
            self._content.say(f"{title}\n{data}" if title else data)
        elif kind != "content":
            raise InvalidParameter(at + "type", "must be text, content, base64, file or url")
        elif type(source.get("content")) is str:
            self._content.say(source["content"])
        else:
            self._nested(source, at)

    def _result(self, block: Body, at: str) -> Message:
        """A tool's result. An error is marked in the text, since templates have no field for it."""
        content, turn = block.get("content"), _Turn("tool", self._warnings)
        (message,) = turn.read("" if content is None else content, at + "content")
        call_id = fields.filled(block, "tool_use_id", at)
        failed = fields.flag(block, "is_error", at=at)
        message = msgspec.structs.replace(message, tool_call_id=call_id)
        if failed and not message.content.lower().startswith("error"):
            return message.after("Error: ")
        return message


def _image(source: Body, at: str) -> Media:
    if fields.choice(source, "type", ("base64", "url"), at=at) == "url":
        return Media(kind="image", url=fields.text(source, "url", at=at))
    media_type, data = fields.text(source, "media_type", at=at), fields.text(source, "data", at=at)
    return Media(kind="image", url=f"data:{media_type};base64,{data}")


def _tools(body: Body, warnings: list[str]) -> tuple[tuple[Tool, ...], tuple[Search, ...]]:
    offered = []
    searches: dict[str, Search] = {}
    for tool, at in fields.objects(body, "tools"):
        kind = fields.text(tool, "type", "custom", at=at)
        client_tools = (CLIENT_TOOLS[start] for start in CLIENT_TOOLS if kind.startswith(start))
        if kind == "custom":
            offered.append({**tool, "parameters": fields.mapping(tool, "input_schema", at)})
        elif (definition := next(client_tools, None)) is not None:
            offered.append({**definition, "name": tool.get("name")})
        elif kind.startswith(web_search.TOOL):
            searches[web_search.NAME] = web_search.parse(tool, at, warnings)
        elif kind != TOOLSET:
            warnings.append(f"tools of type {fields.header_safe(kind)} are ignored")
    tools = functions(offered)
    for function in tools:
        searches.pop(function.name, None)  # the client's own function takes precedence
    return tools, tuple(searches.values())


def _choice(value: Body) -> ToolChoice:
    kind = fields.choice(value, "type", ("tool", *CHOICES), "auto", "tool_choice.")
    if kind == "tool":
        return ToolChoice("named", fields.filled(value, "name", "tool_choice."))
    return CHOICES[kind]


def _output(body: Body, config: Body) -> OutputFormat:
    """`output_config.format`, or `output_format` from clients of the beta."""
    at, form = "output_config.format.", fields.mapping(config, "format", "output_config.")
    if not form:
        at, form = "output_format.", fields.mapping(body, "output_format")
    output = output_format(form, at)
    if output.kind == "text":
        return output
    return msgspec.structs.replace(output, name="output", strict=True)


def _thinking(value: Body) -> dict[str, Any]:
    """Template arguments for the switch that some templates have; `adaptive` leaves the default."""
    kinds = ("enabled", "disabled", "adaptive", "between_tools")
    kind = fields.choice(value, "type", kinds, "adaptive", "thinking.")
    return {"enable_thinking": kind == "enabled"} if kind in ("enabled", "disabled") else {}


# MCP servers: `mcp_servers`, and tools of type `mcp_toolset`. Both forms of the API are read: a
# server with its `tool_configuration`, and a server whose tools a toolset allows. Its header
# `anthropic-beta` is not needed. A server without a URL is a configured one.
TOOLSET = "mcp_toolset"


def _servers(body: Body) -> tuple[McpServer, ...]:
    """The servers whose tools the model may call. Raises InvalidParameter."""
    servers: dict[str, McpServer] = {}
    off = set()
    for value, at in fields.objects(body, "mcp_servers"):
        fields.choice(value, "type", ("url",), "url", at)
        label, url = server_label(value, "name", at), fields.text(value, "url", at=at)
        if label in servers:
            raise InvalidParameter(at + "name", f"is used twice: {label}")
        if len(servers) == MOST_SERVERS:
            raise InvalidParameter("mcp_servers", f"may contain at most {MOST_SERVERS}")
        config, place = fields.mapping(value, "tool_configuration", at), at + "tool_configuration."
        allowed = None
        if config.get("allowed_tools") is not None:
            allowed = frozenset(fields.strings(config, "allowed_tools", place))
        if not fields.flag(config, "enabled", True, place):
            off.add(label)
        servers[label] = McpServer(
            label=label,
            url=url,
            headers=authorization(value, "authorization_token", at, url),
            allowed=ToolFilter(allowed),
            approval=Approval(never=ToolFilter()),
            required=True,
        )
    for value, at in fields.objects(body, "tools"):
        if value.get("type") != TOOLSET:
            continue
        label = fields.required(value, "mcp_server_name", at)
        if label not in servers:
            raise InvalidParameter(
                at + "mcp_server_name", f"names no server in mcp_servers: {label[:64]!r}"
            )
        servers[label] = msgspec.structs.replace(servers[label], allowed=_enabled(value, at))
    return tuple(server for server in servers.values() if server.label not in off)


def _enabled(toolset: Body, at: str) -> ToolFilter:
    default = fields.flag(fields.mapping(toolset, "default_config", at), "enabled", True)
    on: set[str] = set()
    off: set[str] = set()
    for name, value in fields.mapping(toolset, "configs", at).items():
        config = fields.entry(value, f"{at}configs.{name[:64]}")
        (on if fields.flag(config, "enabled", default) else off).add(name)
    return ToolFilter(None if default else frozenset(on), frozenset(off))
