"""Parses a body of /v1/responses into a CompletionRequest and the fields its answer repeats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from msgspec import Struct, structs

from ...core.conversation import joined
from ...core.mcp import McpServer, function_name
from ...core.request import CompletionRequest, Message, Search, ToolChoice
from ...core.sampling import sampling
from ...errors import InvalidParameter
from .. import fields
from .. import schema_fields as doc
from ..fields import Body
from ..openai import answer as openai
from ..openai.tools import CALLS, functions, named_choice
from ..schema_fields import Fields, table
from ..vector_stores.request import parse_filters, threshold
from . import mcp
from .items import as_items, check_outputs, conversation_of, messages, referenced

LOGPROBS = "message.output_text.logprobs"
FILES = 5
PAGES = {"low": 3, "medium": 5, "high": 8}
RESULTS, SOURCES = "file_search_call.results", "web_search_call.action.sources"
INPUT = doc.one_of(
    "A string, or a list of items.", "Hello!", {"anyOf": [doc.TEXT, {"type": "array"}]}
)
_PARSED: Fields = {
    **{name: openai.PARSED[name] for name in ("model", "stop", "stream")},
    "user": openai.USER,
    "prompt_cache_key": openai.SESSION,
    "chat_template_kwargs": openai.TEMPLATE,
    **CALLS,
}
_TABLE = table(_PARSED)
FIELDS: Fields = {
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
    "logit_bias": openai.LOGIT_BIAS,
    "top_logprobs": openai.ALTERNATIVES,
    "capture": doc.CAPTURE,
    "background": doc.flag("Run in the background; requires `store`, excludes `stream`."),
    "store": doc.flag("Store the response.", True),
    "generate": doc.flag("false: only evaluate the prompt, for the request that follows.", True),
    "tools": doc.array("Functions, custom tools, file_search, web_search, mcp.", []),
    "tool_choice": doc.one_of(
        "auto, none, required, a tool, or allowed_tools.", "auto", doc.TEXT, doc.OBJECT
    ),
    "text": doc.mapping(
        "`format`: text, json_object or json_schema.", {"format": {"type": "text"}}
    ),
    "reasoning": doc.mapping(
        "`effort`, passed to the chat template; `max_tokens`.", {"effort": "low"}
    ),
    "truncation": doc.text(
        "auto: leave out the oldest messages of a conversation that is too long.",
        "disabled",
        enum=["auto", "disabled"],
    ),
    "include": doc.strings("Additional parts of the output.", "file_search_call.results"),
    "metadata": doc.mapping("Repeated in the response.", {"a": "b"}),
    "safety_identifier": doc.text("Repeated in the response."),
    **_PARSED,
    **openai.REPORT,
    **doc.SAMPLERS,
}
# The gateway shows the reasoning itself, and has no shorter form of it.
REASONING = frozenset({"effort", "max_tokens", "summary", "generate_summary"})
CUSTOM = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}


class ParsedRequest(Struct, frozen=True):
    """`repeated` are the fields that the Response object repeats, `input` all items for the model,
    also those of earlier responses. `custom` names the tools that take free text. `prefill_only`:
    the prompt is evaluated for the next request. `include`: the extra output requested."""

    request: CompletionRequest
    repeated: Mapping[str, Any]
    input: tuple[Any, ...]
    custom: frozenset[str]
    prefill_only: bool = False
    include: frozenset[str] = frozenset()

    @property
    def store(self) -> bool:
        return bool(self.repeated["store"])


def parse(
    body: Body,
    earlier: tuple[Any, ...] = (),
    searches: frozenset[str] = frozenset(),
    find: Callable[[str], Any] = lambda item: None,
) -> ParsedRequest:
    """`earlier` are the items of the response that this one continues, `searches` the searches that
    the gateway can make. `find` returns a stored item by id. Raises InvalidParameter."""
    if body.get("prompt") is not None:  # stored by OpenAI
        raise InvalidParameter("prompt", "is not supported: send the text of the prompt")
    reasoning, spoken = fields.mapping(body, "reasoning"), fields.mapping(body, "text")
    warnings = [
        *fields.ignored_fields(body, FIELDS.keys()),
        *fields.ignored_fields(spoken, {"format"}, "text."),
        *fields.ignored_fields(reasoning, REASONING, "reasoning."),
    ]
    items = (*earlier, *referenced(as_items(body.get("input", [])), find))
    check_outputs(items)
    tools = _Tools(body, searches, warnings)
    for item in items:
        match item:
            case {"type": "mcp_list_tools", "server_label": str(label)} if not item.get("error"):
                if server := tools.servers.get(label):
                    tools.servers[label] = structs.replace(server, listed=True)
    approved = mcp.approved(mcp.approvals(items), tools.servers)
    instructions = fields.text(body, "instructions")
    chat = messages(list(items), warnings)
    if instructions:
        first = Message(role="system", content=instructions)
        if chat and chat[0].role == "system":
            first = joined(first, chat.pop(0))
        chat = [first, *chat]
    if not chat:
        raise InvalidParameter("input", "must contain at least one message")
    chosen = parse_choice(body.get("tool_choice"), warnings)
    truncation = fields.choice(body, "truncation", ("auto", "disabled"), "disabled")
    background, store = fields.flag(body, "background"), fields.flag(body, "store", True)
    values = fields.read(body, _TABLE)
    if background and (values.get("stream") or not store):
        raise InvalidParameter("background", "requires store: true and stream: false")
    most = fields.integer(body, "max_output_tokens", 1, openai.MAX_TOKENS)
    prefill_only = not fields.flag(body, "generate", True)
    logprobs = fields.integer(body, "top_logprobs", 0, openai.MAX_LOGPROBS) or 0
    include = frozenset(name for name in fields.items(body, "include") if type(name) is str)
    form = fields.mapping(spoken, "format", "text.")
    request = CompletionRequest(
        messages=tuple(chat),
        sampling=sampling(body),
        max_tokens=0 if prefill_only else most,
        logprobs=logprobs if LOGPROBS in include else None,
        tools=tuple(tool for tool in tools.functions if chosen.allows("function", tool.name)),
        searches=tuple(s for s in tools.searches.values() if chosen.allows("search", s.name)),
        servers=tuple(s for s in tools.servers.values() if chosen.allows("mcp", s.label)),
        approved=approved,
        tool_choice=chosen.choice,
        output=openai.output_format(form, "text.format."),
        reasoning_effort=fields.text(reasoning, "effort", at="reasoning."),
        reasoning_tokens=fields.integer(
            reasoning, "max_tokens", 0, openai.MAX_TOKENS, at="reasoning."
        ),
        report=openai.report(body),
        warnings=tuple(dict.fromkeys(warnings)),
        **values,
    )
    # The Open Responses schema requires each of these fields. One that the request leaves out has
    # the API's default, although the backend, or `--sampling`, may set another.
    key = conversation_of(body)
    repeated = {
        **({"conversation": {"id": key}} if key else {}),
        **{name: request.sampling.get(name, default) for name, default in _SAMPLING.items()},
        "instructions": instructions or None,
        "max_tool_calls": request.max_tool_calls,
        "metadata": fields.mapping(body, "metadata"),
        "parallel_tool_calls": request.parallel_tool_calls,
        "previous_response_id": fields.text(body, "previous_response_id") or None,
        "prompt_cache_key": request.session or None,
        "reasoning": {"effort": request.reasoning_effort or None, "summary": None},
        "safety_identifier": fields.text(body, "safety_identifier") or None,
        "service_tier": "default",  # every request is served alike
        "text": {"format": _whole(form, _FORMAT_DEFAULTS[request.output.kind])},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": tools.repeated,
        "user": request.user or None,
        "max_output_tokens": most,
        "top_logprobs": logprobs,
        "truncation": truncation,
        "store": store,
        "background": background,
    }
    custom = frozenset(tools.custom)
    return ParsedRequest(request, repeated, items, custom, prefill_only, include)


_SAMPLING = {"temperature": 1.0, "top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
# Optional fields of formats and tools, by type; the schema wants all of them.
_FORMAT_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "text": {"type": "text"},
    "json_object": {},
    "json_schema": {"description": None, "strict": False},
}
_TOOL_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "function": {"description": None, "parameters": None, "strict": False},
    "custom": {"description": None, "format": {"type": "text"}},
    "file_search": {"max_num_results": 5, "ranking_options": {}, "filters": None},
    "web_search": {"user_location": None, "search_context_size": "medium"},
    "mcp": {
        "allowed_tools": None,
        "headers": None,
        "require_approval": "always",
        "server_description": None,
    },
}
_RANKING = {"ranker": "auto", "score_threshold": 0.0}


def _whole(body: Body, defaults: Body) -> dict[str, Any]:
    """The body with all fields that have a default; null counts as absent."""
    return {**defaults, **{name: value for name, value in body.items() if value is not None}}


class _Tools:
    """The tools of a request, by what becomes of them."""

    def __init__(self, body: Body, searches: frozenset[str], warnings: list[str]) -> None:
        self.custom: set[str] = set()
        self.searches: dict[str, Search] = {}
        self.servers: dict[str, McpServer] = {}
        self.repeated: list[Body] = []
        offered: list[Body] = []
        for tool, at in fields.objects(body, "tools"):
            kind = fields.text(tool, "type", at=at)
            kind = "web_search" if kind.startswith("web_search") else kind  # with dates, preview
            shown = mcp.repeated(tool) if kind == "mcp" else tool
            whole = _whole(shown, _TOOL_DEFAULTS.get(kind, {}))
            self.repeated.append(whole)
            if kind == "custom":
                self.custom.add(fields.text(tool, "name", at=at))
                offered.append({**tool, "parameters": _custom(tool, at, warnings)})
            elif kind == "function":
                offered.append(tool)
            elif kind == "mcp":
                server = mcp.server(tool, at)
                if server.label in self.servers:
                    raise InvalidParameter(at + "server_label", f"is used twice: {server.label}")
                self.servers[server.label] = server
            elif kind == "file_search":
                whole["ranking_options"] = _whole(whole["ranking_options"], _RANKING)
            if kind in searches:
                if kind == "file_search":
                    self.searches[kind] = _file_search(tool, at)
                else:
                    size = fields.choice(tool, "search_context_size", PAGES, "medium", at)
                    self.searches[kind] = Search(kind="web", count=PAGES[size])
            elif kind not in ("custom", "function", "mcp"):
                tool_type = fields.header_safe(tool.get("type") or "")
                warnings.append(f"tools of type {tool_type} are ignored")
        if len(self.servers) > mcp.MOST_SERVERS:
            raise InvalidParameter("tools", f"may contain at most {mcp.MOST_SERVERS} MCP servers")
        self.functions = functions(offered)
        for function in self.functions:
            self.searches.pop(function.name, None)  # the client's own function takes precedence


def _custom(tool: Body, at: str, warnings: list[str]) -> Mapping[str, Any]:
    """The parameters of a tool that takes free text, and perhaps fits a regular expression."""
    form = fields.mapping(tool, "format", at)
    if fields.text(form, "type", "text", at=at + "format.") == "text":
        return CUSTOM
    pattern = fields.text(form, "definition", at=at + "format.")
    if form.get("syntax") != "regex" or not pattern:
        warnings.append(f"{at}format is ignored")
        return CUSTOM
    return {**CUSTOM, "properties": {"input": {"type": "string", "pattern": f"^(?:{pattern})$"}}}


def _file_search(tool: Body, at: str) -> Search:
    stores = fields.strings(tool, "vector_store_ids", at)
    if not stores:
        raise InvalidParameter(at + "vector_store_ids", "must contain at least one id")
    return Search(
        kind="file",
        stores=stores,
        count=fields.integer(tool, "max_num_results", 1, 50, at) or FILES,
        threshold=threshold(tool, at),
        wanted=parse_filters(tool.get("filters"), at + "filters"),
    )


_CHOICE = "tool_choice."


class Chosen(NamedTuple):
    """`only` are the tools that it allows, as (kind, name or label); None allows all."""

    choice: ToolChoice
    only: frozenset[tuple[str, str]] | None = None

    def allows(self, kind: str, name: str) -> bool:
        return self.only is None or (kind, name) in self.only


def parse_choice(value: Any, warnings: list[str]) -> Chosen:
    kind = fields.text(value, "type", at=_CHOICE) if isinstance(value, dict) else ""
    if not kind:
        return Chosen(named_choice(value, None, _CHOICE, "auto, none, required"))
    if kind == "allowed_tools":
        mode = fields.choice(value, "mode", ("auto", "required"), "auto", _CHOICE)
        tools = fields.objects(value, "tools", _CHOICE)
        only = frozenset(_named_tool(tool, at) for tool, at in tools)
        return Chosen(ToolChoice("required" if mode == "required" else "auto"), only)
    family, name = _named_tool(value, _CHOICE)
    if family == "mcp":
        tool = fields.text(value, "name", at=_CHOICE)
        if tool:
            return Chosen(ToolChoice("named", function_name(name, tool)))
        return Chosen(ToolChoice("required"), frozenset([(family, name)]))
    if family == "search":
        return Chosen(ToolChoice("named", name))
    if kind not in ("function", "custom"):
        warnings.append(f"tool_choice of type {fields.header_safe(kind)} is ignored")
        return Chosen(ToolChoice())
    return Chosen(named_choice(value, value, _CHOICE, "auto, none, required"))


def _named_tool(value: Body, at: str) -> tuple[str, str]:
    kind = fields.text(value, "type", "function", at=at)
    if kind == "mcp":
        return kind, fields.text(value, "server_label", at=at)
    if kind.startswith("web_search"):
        return "search", "web_search"
    if kind == "file_search":
        return "search", kind
    return "function", fields.text(value, "name", at=at)
