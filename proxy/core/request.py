"""A client's request, in one form for all dialects. Nothing after a dialect's `parse` sees the
client's JSON again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Literal
from urllib.parse import urlsplit

from msgspec import Struct, structs

from .mcp import McpServer, ServerCall

Role = Literal["system", "user", "assistant", "tool"]


class Media(Struct, frozen=True, kw_only=True):
    """An image or sound in a message: `kind` is image or audio; `url` a data: or http(s): URL; for
    audio, `format` (wav, mp3) and base64 in `data`. `at` is its position in the message's content,
    in characters."""

    kind: Literal["image", "audio"]
    url: str = ""
    data: str = ""
    format: str = ""
    detail: str = ""
    at: int = 0


class ToolCall(Struct, frozen=True):
    """A call by the model. `arguments` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


class Message(Struct, frozen=True, kw_only=True):
    """One turn. `content` is all its text; `media` are its images and sounds, in order. `parts` are
    the offsets at which several texts of the client begin; a line break joins each to the next.
    `cites`: the text contains documents, whose control tokens never act."""

    role: Role
    content: str = ""
    name: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    reasoning: str = ""
    media: tuple[Media, ...] = ()
    parts: tuple[int, ...] = ()
    cites: bool = False

    @property
    def pieces(self) -> list[str | Media]:
        """The texts and the media, in order."""
        out: list[str | Media] = []
        media = list(self.media)
        for start, beyond in pairwise((*(self.parts or (0,)), len(self.content) + 1)):
            begin, end, before = start, beyond - 1, len(out)
            while media and media[0].at <= end:
                if media[0].at > begin:
                    out.append(self.content[begin : media[0].at])
                    begin = media[0].at
                out.append(media.pop(0))
            if begin < end or (self.parts and len(out) == before):
                out.append(self.content[begin:end])
        return out

    def after(self, lead: str) -> Message:
        more = len(lead)
        return structs.replace(
            self,
            content=lead + self.content,
            media=tuple(structs.replace(m, at=m.at + more) for m in self.media),
            parts=self.parts and (0, *(part + more for part in self.parts[1:])),
        )

    @property
    def characters(self) -> int:
        """The number of characters in its text and its calls' arguments."""
        return len(self.content) + sum(len(call.arguments) for call in self.tool_calls)


class Tool(Struct, frozen=True):
    """A function the model may call; `parameters` is a JSON schema. `annotations` are what an MCP
    server says about it, and `server` is the name of that server."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = {}
    strict: bool = False
    annotations: Mapping[str, Any] = {}
    server: str = ""


class ToolChoice(Struct, frozen=True):
    """`mode` is auto, none, required, or named (then with `name`)."""

    mode: Literal["auto", "none", "required", "named"] = "auto"
    name: str = ""


class OutputFormat(Struct, frozen=True):
    """The required format of the answer: text, any JSON object, or JSON matching a schema."""

    kind: Literal["text", "json_object", "json_schema"] = "text"
    schema: Mapping[str, Any] | None = None
    name: str = ""
    strict: bool = False


class Search(Struct, frozen=True, kw_only=True):
    """A search that the gateway runs when the model calls it, at most `most` times: in the files of
    these vector `stores` (those whose attributes match `wanted`, with a score of at least
    `threshold`), or on the web: on these `sites` only, if there are any, and not on `blocked` ones.
    `count` is the number of results."""

    kind: Literal["file", "web"]
    stores: tuple[str, ...] = ()
    count: int = 5
    threshold: float = 0.0
    wanted: Callable[[Mapping[str, Any]], bool] | None = None
    sites: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()
    most: int | None = None

    @property
    def name(self) -> str:
        return f"{self.kind}_search"

    def permits(self, url: str) -> bool:
        """Whether a web page may be a result."""
        on_sites = not self.sites or any(_is_on(url, site) for site in self.sites)
        return on_sites and not any(_is_on(url, site) for site in self.blocked)


def _is_on(url: str, site: str) -> bool:
    """Whether a page is on a site such as `example.com` (with its subdomains), or below a path of
    it, `example.com/blog`, in which `*` stands for any text."""
    parts, (host, _, path) = urlsplit(url), site.partition("/")
    if not f".{parts.hostname or ''}".endswith(f".{host.lower()}"):
        return False
    return re.match(".*".join(map(re.escape, path.split("*"))), parts.path[1:]) is not None


class Report(Struct, frozen=True, kw_only=True):
    """What a client wants to know: the prompt's size before the first text; `progress` of its
    evaluation; `timings` and `tokens` (ids) of each piece; at the end, the `settings` that the
    backend used; `sampled`: probabilities after the samplers. What a backend cannot report is
    omitted."""

    prompt: bool = False
    progress: bool = False
    timings: bool = False
    tokens: bool = False
    settings: bool = False
    sampled: bool = False


class Compaction(Struct, frozen=True):
    """What a client asks for: the oldest turns are summed up if the prompt has more than `trigger`
    tokens. `instructions` replace the usual ones. `pauses`: nothing is generated then but the
    summary."""

    trigger: int
    instructions: str = ""
    pauses: bool = False


class CompletionRequest(Struct, frozen=True, kw_only=True):
    """One request for one or more completions: `messages`, rendered by a template, or `prompts`
    (texts, token ids, or a mix). None or "" means the setting or the rest of the context.
    `max_length` limits prompt and answer together. `logprobs` is the number of alternatives.
    `extra` are unknown fields that a backend may understand. `warnings` become headers."""

    model: str = ""
    messages: tuple[Message, ...] = ()
    prompts: tuple[str | tuple[int | str, ...], ...] = ()
    suffix: str = ""
    sampling: Mapping[str, Any] = {}
    max_tokens: int | None = None
    max_length: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    logprobs: int | None = None
    echo: bool = False
    return_prompt_tokens: bool = False
    tools: tuple[Tool, ...] = ()
    searches: tuple[Search, ...] = ()
    servers: tuple[McpServer, ...] = ()
    approved: tuple[ServerCall, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    max_tool_calls: int | None = None
    output: OutputFormat = OutputFormat()
    reasoning_effort: str = ""
    reasoning_tokens: int | None = None  # at most
    reasoning_format: Literal["", "deepseek", "none", "raw"] = ""
    template_kwargs: Mapping[str, Any] = {}
    user: str = ""
    session: str = ""
    compaction: Compaction | None = None
    warnings: tuple[str, ...] = ()
    report: Report = Report()
    extra: Mapping[str, Any] = {}

    @property
    def is_chat(self) -> bool:
        return bool(self.messages)

    @property
    def runs_tools(self) -> bool:
        """Whether the gateway makes searches or calls for the model."""
        return bool(self.searches or self.servers)

    @property
    def choices(self) -> int:
        return self.n * (len(self.prompts) or 1)


# The formats of an answer that a server may not know: ways to call tools, and schemas.
#
# The names of the first are those of `ToolChoice.mode`.

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
