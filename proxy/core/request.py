"""What a client asked, in one form for every dialect.

A dialect's `parse` makes these values and nothing after it sees the client's dict again. They are
frozen and compared by content. What is not understood but may matter to a backend travels in
`CompletionRequest.extra`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from msgspec import Struct

Role = Literal["system", "user", "assistant", "tool"]


class Media(Struct, frozen=True):
    """A part that is no text: `kind` image or audio; `url` a data: or http(s): URL; for audio
    `format` (wav, mp3) and base64 in `data`. `at` is how much of the message's content, in
    characters, stands before it."""

    kind: Literal["image", "audio"]
    url: str = ""
    data: str = ""
    format: str = ""
    detail: str = ""
    at: int = 0


class ToolCall(Struct, frozen=True):
    """`arguments` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


class Message(Struct, frozen=True):
    """One turn. `content` is all its text; `media` are the parts besides, in order."""

    role: Role
    content: str = ""
    name: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    reasoning: str = ""
    media: tuple[Media, ...] = ()

    @property
    def characters(self) -> int:
        """Characters of its text and of its calls' arguments."""
        return len(self.content) + sum(len(call.arguments) for call in self.tool_calls)


class Tool(Struct, frozen=True):
    """A function the model may call; `parameters` is a JSON schema."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = {}
    strict: bool = False


class ToolChoice(Struct, frozen=True):
    """`mode` auto, none, required, or named (then `name`)."""

    mode: Literal["auto", "none", "required", "named"] = "auto"
    name: str = ""


class OutputFormat(Struct, frozen=True):
    """What the answer must be: text, any JSON object, or JSON of a schema."""

    kind: Literal["text", "json_object", "json_schema"] = "text"
    schema: Mapping[str, Any] | None = None
    name: str = ""
    strict: bool = False


class Search(Struct, frozen=True):
    """A search that the gateway makes by itself where the model calls for it: in the files of these
    vector `stores` (those whose attributes are `wanted`, of a score of at least `threshold`), or on
    the web. `count` is how many results."""

    kind: Literal["file", "web"]
    stores: tuple[str, ...] = ()
    count: int = 5
    threshold: float = 0.0
    wanted: Callable[[Mapping[str, Any]], bool] | None = None

    @property
    def name(self) -> str:
        """The name the model calls it by."""
        return f"{self.kind}_search"


class Report(Struct, frozen=True, kw_only=True):
    """What a client wants to know besides the answer, as llama-server's clients ask for it.

    `progress` of the prompt's evaluation; `timings` and `tokens` (their ids) of each piece of a
    stream; at the end the `settings` the backend used, with the prompt as it saw it. `sampled`:
    probabilities are those after the samplers. A backend that cannot tell leaves it out.
    """

    progress: bool = False
    timings: bool = False
    tokens: bool = False
    settings: bool = False
    sampled: bool = False

    @property
    def by_token(self) -> bool:
        """Whether something is reported of each token."""
        return self.timings or self.tokens


NO_REPORT = Report()


class CompletionRequest(Struct, frozen=True, kw_only=True):
    """One request for one or more completions.

    Either `messages` (a chat, rendered by a template) or `prompts` (texts, token ids, or a row of
    both, as they are). `sampling` holds only names and types checked by `core.sampling`.
    `max_tokens` None means what is left of the context. `logprobs` is the number of alternatives
    wanted, None for none. `reasoning_format` says where thoughts go, "" as the settings say.
    `warnings` tell what a dialect left out; they become headers.
    """

    model: str = ""
    messages: tuple[Message, ...] = ()
    prompts: tuple[str | tuple[int | str, ...], ...] = ()
    suffix: str = ""
    sampling: Mapping[str, Any] = {}
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    logprobs: int | None = None
    echo: bool = False
    return_prompt_tokens: bool = False
    tools: tuple[Tool, ...] = ()
    searches: tuple[Search, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    output: OutputFormat = OutputFormat()
    reasoning_effort: str = ""
    reasoning_format: Literal["", "deepseek", "none", "raw"] = ""
    template_kwargs: Mapping[str, Any] = {}
    user: str = ""
    session: str = ""
    warnings: tuple[str, ...] = ()
    report: Report = NO_REPORT
    extra: Mapping[str, Any] = {}

    @property
    def is_chat(self) -> bool:
        return bool(self.messages)

    @property
    def choices(self) -> int:
        """How many answers are wanted."""
        return self.n * (len(self.prompts) or 1)
