"""Parses a body of /v1/responses into a CompletionRequest and the fields its answer repeats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from msgspec import Struct, structs

from ...core.conversation import joined
from ...core.mcp import McpServer, function_name
from ...core.request import CompletionRequest, Message, OutputFormat, Search, Tool, ToolChoice
from ...errors import InvalidParameter
from .. import schema_fields as doc
from ..conversations import objects as conversations
from ..fields import (
    Body,
    entry,
    flag,
    ignored_fields,
    integer,
    items,
    mapping,
    model_name,
    plain,
    stops,
    text,
)
from ..openai import answer as openai
from ..openai.tools import CALLS, PARALLEL, functions
from ..schema_fields import Fields
from ..vector_stores.request import parse_filters
from . import mcp
from .items import as_items, check_outputs, messages, referenced

LOGPROBS = "message.output_text.logprobs"
FILES = 5
PAGES = {"low": 3, "medium": 5, "high": 8}
RESULTS, SOURCES = "file_search_call.results", "web_search_call.action.sources"
TOLD = frozenset({RESULTS, SOURCES})
# Stored by OpenAI only; ignoring them would answer a different question, so they are errors.
ELSEWHERE = {
    "prompt": "send the text of the prompt",
}
INPUT = doc.one_of(
    "A string, or a list of items.", "Hello!", {"anyOf": [doc.TEXT, {"type": "array"}]}
)
FIELDS: Fields = {
    "model": doc.MODEL,
    "input": INPUT,
    "instructions": doc.text("A system message for this response only."),
    "previous_response_id": doc.text("The stored response that this one continues.", ""),
    "conversation": doc.one_of(
        "The conversation that this one continues: an id, or an object.",
        "conv_1",
        doc.TEXT,
        doc.OBJECT,
    ),
    "max_output_tokens": openai.tokens("Maximum tokens of the output.", 1),
    "stop": openai.STOP,
    "logit_bias": openai.LOGIT_BIAS,
    "top_logprobs": openai.ALTERNATIVES,
    "stream": doc.STREAM,
    "background": doc.flag("Run in the background; requires `store`, excludes `stream`."),
    "store": doc.flag("Store the response.", True),
    "generate": doc.flag("false: only evaluate the prompt, for the request that follows.", True),
    "tools": doc.array("Functions, custom tools, file_search, web_search, mcp.", []),
    "tool_choice": doc.one_of(
        "auto, none, required, a tool, or allowed_tools.", "auto", doc.TEXT, doc.OBJECT
    ),
    "parallel_tool_calls": PARALLEL,
    "max_tool_calls": CALLS,
    "text": doc.mapping(
        "`format`: text, json_object or json_schema.", {"format": {"type": "text"}}
    ),
    "reasoning": doc.mapping("`effort` is passed to the chat template.", {"effort": "low"}),
    "truncation": doc.text(
        "auto: leave out the oldest messages of a conversation that is too long.",
        "disabled",
        enum=["auto", "disabled"],
    ),
    "include": doc.strings("Additional parts of the output.", "file_search_call.results"),
    "metadata": doc.mapping("Repeated in the response.", {"a": "b"}),
    "user": openai.USER,
    "safety_identifier": doc.text("Repeated in the response."),
    "prompt_cache_key": openai.SESSION,
    "chat_template_kwargs": openai.TEMPLATE,
    **openai.REPORT,
    **doc.SAMPLERS,
}
# The gateway shows the reasoning itself, and has no shorter form of it.
REASONING = frozenset({"effort", "summary", "generate_summary"})
CUSTOM = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}


class ParsedRequest(Struct, frozen=True, kw_only=True):
    """A parsed request. `repeated` are the fields that the Response object repeats. `input` are all
    items the model receives, including those of earlier responses. `custom` names the tools that
    take free text. `warms`: the prompt is evaluated for the request that follows, and nothing is
    generated. `shortens` allows dropping the oldest messages if they do not fit. `include` lists
    the extra output requested."""

    request: CompletionRequest
    repeated: Mapping[str, Any]
    input: tuple[Any, ...]
    custom: frozenset[str]
    store: bool
    shortens: bool
    background: bool
    warms: bool = False
    include: frozenset[str] = frozenset()


def parse(
    body: Body,
    earlier: tuple[Any, ...] = (),
    searches: frozenset[str] = frozenset(),
    find: Callable[[str], Any] = lambda item: None,
) -> ParsedRequest:
    """`earlier` are the items of the response that this one continues, `searches` the searches that
    the gateway can make. `find` returns a stored item by id. Raises InvalidParameter."""
    for name, instead in ELSEWHERE.items():
        if body.get(name) is not None:
            raise InvalidParameter(name, f"is not supported: {instead}")
    warnings = [
        *ignored_fields(body, FIELDS.keys()),
        *ignored_fields(mapping(body, "text"), {"format"}, "text."),
        *ignored_fields(mapping(body, "reasoning"), REASONING, "reasoning."),
    ]
    given = (*earlier, *referenced(as_items(body.get("input", [])), find))
    check_outputs(list(given))
    raw_tools = items(body, "tools")
    servers = _servers(raw_tools, mcp.listed_labels(given))
    approved = mcp.approved(mcp.approvals(given), servers)
    instructions = text(body, "instructions")
    chat = messages(list(given), warnings)
    if instructions:
        first = Message(role="system", content=instructions)
        chat[:1] = (
            [joined(first, chat[0])] if chat and chat[0].role == "system" else [first, *chat[:1]]
        )
    if not chat:
        raise InvalidParameter("input", "must contain at least one message")
    tools, custom, search_tools = _tools(raw_tools, searches, warnings)
    chosen = parse_choice(body.get("tool_choice"), warnings)
    form = mapping(mapping(body, "text"), "format", "text.")
    reasoning = mapping(body, "reasoning")
    truncation = text(body, "truncation", "disabled")
    if truncation not in ("auto", "disabled"):
        raise InvalidParameter("truncation", "must be auto or disabled")
    background, stream = flag(body, "background"), flag(body, "stream")
    store = flag(body, "store", True)
    if background and (stream or not store):
        raise InvalidParameter("background", "requires store: true and stream: false")
    most = integer(body, "max_output_tokens", 1, openai.MAX_TOKENS)
    warms = not flag(body, "generate", True)
    logprobs = integer(body, "top_logprobs", 0, openai.MAX_LOGPROBS)
    request = CompletionRequest(
        model=model_name(body),
        messages=tuple(chat),
        sampling=openai.samplers(body),
        stop=stops(body),
        template_kwargs=mapping(body, "chat_template_kwargs"),
        max_tokens=0 if warms else most,
        stream=stream,
        logprobs=logprobs or 0 if LOGPROBS in items(body, "include") else None,
        tools=tuple(tool for tool in tools if chosen.allows("function", tool.name)),
        searches=tuple(one for one in search_tools if chosen.allows("search", one.name)),
        servers=tuple(one for one in servers.values() if chosen.allows("mcp", one.label)),
        approved=approved,
        tool_choice=chosen.choice,
        parallel_tool_calls=flag(body, "parallel_tool_calls", True),
        max_tool_calls=integer(body, "max_tool_calls", 1, 1 << 30),
        output=_output(form),
        reasoning_effort=text(reasoning, "effort", at="reasoning."),
        user=text(body, "user"),
        session=text(body, "prompt_cache_key"),
        report=openai.report(body),
        warnings=tuple(dict.fromkeys(warnings)),
    )
    told = {
        "instructions": instructions or None,
        "max_output_tokens": most,
        "top_logprobs": logprobs or 0,
        "truncation": truncation,
        "store": store,
        "background": background,
    }
    include = frozenset(one for one in items(body, "include") if type(one) is str) & TOLD
    return ParsedRequest(
        request=request,
        repeated=repeated(body, request, told),
        input=given,
        custom=custom,
        store=store,
        shortens=truncation == "auto",
        warms=warms,
        background=background,
        include=include,
    )


def _tools(
    values: list[Any], searches: frozenset[str], warnings: list[str]
) -> tuple[tuple[Tool, ...], frozenset[str], tuple[Search, ...]]:
    offered = []
    custom: set[str] = set()
    search_tools: dict[str, Search] = {}
    for i, value in enumerate(values):
        tool = entry(value, f"tools[{i}]")
        kind = text(tool, "type", at=f"tools[{i}].")
        if kind == "custom":
            custom.add(text(tool, "name", at=f"tools[{i}]."))
            tool = {**tool, "parameters": _custom(tool, f"tools[{i}].", warnings)}
        elif (search := _search(tool, kind, f"tools[{i}].", searches)) is not None:
            search_tools[search.name] = search
            continue
        elif kind == "mcp":
            continue
        elif kind != "function":
            warnings.append(f"tools of type {plain(kind)} are ignored")
            continue
        offered.append(tool)
    tools = functions(offered)
    for function in tools:
        search_tools.pop(function.name, None)  # the client's own function takes precedence
    return tools, frozenset(custom), tuple(search_tools.values())


def _custom(tool: Body, at: str, warnings: list[str]) -> Mapping[str, Any]:
    """The parameters of a tool that takes free text. A regular expression for it becomes a pattern
    of the schema; Lark's grammars are ignored with a warning."""
    form = mapping(tool, "format", at)
    if text(form, "type", "text", at=at + "format.") == "text":
        return CUSTOM
    pattern = text(form, "definition", at=at + "format.")
    if form.get("syntax") != "regex" or not pattern:
        warnings.append(f"{at}format is ignored")
        return CUSTOM
    return {**CUSTOM, "properties": {"input": {"type": "string", "pattern": f"^(?:{pattern})$"}}}


def _servers(values: list[Any], listed: frozenset[str]) -> dict[str, McpServer]:
    """The MCP servers among the tools, by label; the client has the tools of those `listed`."""
    servers: dict[str, McpServer] = {}
    for i, value in enumerate(values):
        tool = entry(value, f"tools[{i}]")
        if tool.get("type") != "mcp":
            continue
        server = mcp.server(tool, f"tools[{i}].")
        if server.label in servers:
            raise InvalidParameter(f"tools[{i}].server_label", f"is used twice: {server.label}")
        if len(servers) == mcp.MOST_SERVERS:
            raise InvalidParameter("tools", f"may contain at most {mcp.MOST_SERVERS} MCP servers")
        servers[server.label] = structs.replace(server, listed=server.label in listed)
    return servers


def _search(tool: Body, kind: str, at: str, searches: frozenset[str]) -> Search | None:
    """The search of a tool that the gateway runs itself; None for any other tool."""
    if kind == "file_search" and kind in searches:
        stores = items(tool, "vector_store_ids", at)
        if not stores or not all(type(store_id) is str for store_id in stores):
            raise InvalidParameter(at + "vector_store_ids", "must be a list of ids")
        options = mapping(tool, "ranking_options", at)
        threshold = options.get("score_threshold") or 0.0
        if type(threshold) not in (int, float) or not 0 <= threshold <= 1:
            raise InvalidParameter(at + "ranking_options.score_threshold", "must be from 0 to 1")
        return Search(
            "file",
            tuple(stores),
            integer(tool, "max_num_results", 1, 50) or FILES,
            float(threshold),
            parse_filters(tool.get("filters"), at + "filters"),
        )
    # It has many dated and preview names.
    if kind.startswith("web_search") and "web_search" in searches:
        size = text(tool, "search_context_size", "medium", at=at)
        if size not in PAGES:
            raise InvalidParameter(at + "search_context_size", f"must be one of {', '.join(PAGES)}")
        return Search("web", count=PAGES[size])
    return None


def _output(form: Body) -> OutputFormat:
    kind = text(form, "type", "text", at="text.format.")
    if kind == "json_object":
        return OutputFormat("json_object")
    if kind == "json_schema":
        schema = form.get("schema")
        if not isinstance(schema, dict):
            raise InvalidParameter("text.format.schema", "must be an object")
        name = text(form, "name", at="text.format.")
        return OutputFormat("json_schema", schema, name, flag(form, "strict", at="text.format."))
    if kind != "text":
        raise InvalidParameter("text.format.type", "must be text, json_object or json_schema")
    return OutputFormat()


# The fields of a request that its Response object repeats, as the Open Responses schema requires:
# each is present, with its default if the request leaves it out. A sampling field that the
# request leaves out is repeated with the API's default, although the backend, or `--sampling`,
# may set another.
# Sampling fields of the request, with the API's defaults.
_SAMPLING: Mapping[str, float] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
TIER = "default"  # every request is served alike
# Optional fields of tools, by type; the schema wants all of them.
_TOOL_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
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
_FORMAT_DEFAULTS: Mapping[str, Any] = {"description": None, "strict": False}


def repeated(body: Body, request: CompletionRequest, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` are the fields that the parser has read itself, and take precedence. Raises
    InvalidParameter."""
    key = conversations.named(body)
    return {
        **({"conversation": {"id": key}} if key else {}),
        **{name: request.sampling.get(name, _SAMPLING[name]) for name in _SAMPLING},
        "instructions": None,
        "max_tool_calls": request.max_tool_calls,
        "metadata": mapping(body, "metadata"),
        "parallel_tool_calls": request.parallel_tool_calls,
        "previous_response_id": text(body, "previous_response_id") or None,
        "prompt_cache_key": request.session or None,
        "reasoning": {"effort": request.reasoning_effort or None, "summary": None},
        "safety_identifier": text(body, "safety_identifier") or None,
        "service_tier": TIER,
        "text": {"format": _whole_format(mapping(mapping(body, "text"), "format", "text."))},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": [
            _whole_tool(tool, f"tools[{i}]") for i, tool in enumerate(body.get("tools") or ())
        ],
        "user": request.user or None,
        **values,
    }


def _whole_format(form: Body) -> Body:
    if not form:
        return {"type": "text"}
    return _whole(form, _FORMAT_DEFAULTS) if form.get("type") == "json_schema" else form


def _whole_tool(value: Any, at: str) -> Body:
    """The tool with all fields of its type."""
    tool = entry(value, at)
    kind = text(tool, "type", "function", at=at + ".")
    defaults = _TOOL_DEFAULTS.get("web_search" if kind.startswith("web_search") else kind, {})
    whole = _whole(mcp.repeated(tool) if kind == "mcp" else tool, defaults)
    if kind == "file_search":
        options = mapping(tool, "ranking_options", at + ".")
        whole["ranking_options"] = _whole(options, defaults["ranking_options"])
    return whole


def _whole(body: Body, defaults: Body) -> dict[str, Any]:
    """The body with all fields that have a default; null counts as absent."""
    given = {name: value for name, value in body.items() if value is not None}
    return {**given, **{name: defaults[name] for name in defaults if name not in given}}


_CHOICE = "tool_choice."


class Chosen(NamedTuple):
    """`only` are the tools that it allows, as (kind, name): a function by its name, a search by
    web_search or file_search, an MCP server by its label. None allows all."""

    choice: ToolChoice
    only: frozenset[tuple[str, str]] | None = None

    def allows(self, kind: str, name: str) -> bool:
        return self.only is None or (kind, name) in self.only


def parse_choice(value: Any, warnings: list[str]) -> Chosen:
    """Raises InvalidParameter."""
    if value is None or value == "auto":
        return Chosen(ToolChoice())
    if value in ("none", "required"):
        return Chosen(ToolChoice(value))
    if isinstance(value, dict):
        kind = text(value, "type", at=_CHOICE)
        if kind == "allowed_tools":
            return _allowed_tools(value)
        if kind == "file_search" or kind.startswith("web_search"):
            return Chosen(ToolChoice("named", _named_tool(value, _CHOICE)[1]))
        if kind == "mcp":
            label, name = text(value, "server_label", at=_CHOICE), text(value, "name", at=_CHOICE)
            if name:
                return Chosen(ToolChoice("named", function_name(label, name)))
            return Chosen(ToolChoice("required"), frozenset([("mcp", label)]))
        if kind in ("function", "custom"):
            if name := text(value, "name", at=_CHOICE):
                return Chosen(ToolChoice("named", name))
        else:
            warnings.append(f"tool_choice of type {plain(kind)} is ignored")
            return Chosen(ToolChoice())
    raise InvalidParameter("tool_choice", "must be auto, none, required or name a tool")


def _allowed_tools(value: Body) -> Chosen:
    mode = text(value, "mode", "auto", at=_CHOICE)
    if mode not in ("auto", "required"):
        raise InvalidParameter("tool_choice.mode", "must be auto or required")
    at = "tool_choice.tools"
    only = frozenset(
        _named_tool(entry(tool, at), at + ".") for tool in items(value, "tools", at=_CHOICE)
    )
    return Chosen(ToolChoice("required" if mode == "required" else "auto"), only)


def _named_tool(value: Body, at: str) -> tuple[str, str]:
    kind = text(value, "type", "function", at=at)
    if kind == "mcp":
        return kind, text(value, "server_label", at=at)
    if kind.startswith("web_search"):
        return "search", "web_search"
    if kind == "file_search":
        return "search", kind
    return "function", text(value, "name", at=at)
