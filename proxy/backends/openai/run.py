"""A request to a server that speaks OpenAI's API, and the stream of its answer.

The server renders the prompt, parses tool calls and enforces schemas itself; what it does not know
is described in the messages instead. It is trusted for nothing: an answer without the call that the
client requires is an error, and a document is validated behind this run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ...core.events import Batch, Finished, FinishReason, ReasoningDelta, TextDelta, ToolCallDelta
from ...core.request import SCHEMAS, TOOLS, CompletionRequest, describes_document
from ...core.sampling import needed
from ...core.task import Task
from ...errors import BackendBusy, GatewayError, Unsupported
from ...prompting.constraints import callable_tools, must_call
from ...prompting.prompt import assistant_prefill, tool_dict
from ...prompting.stages.endings import InvalidOutput
from ...prompting.stages.prompted_output import calls_schema, describe_constraints
from ...wire import openai_stream
from ..driver import Capabilities
from ..http import Exchange
from ..refusals import openai_refusal, pause_of
from ..relay import RelayRun, message_dicts, rewritten
from .server_types import ServerType

# -- the request -----------------------------------------------------------------------------------

CHAT = "/chat/completions"
TEXT = "/completions"


def path(task: Task) -> str:
    return CHAT if task.request.is_chat else TEXT


def payload(
    task: Task, model: str, server: ServerType, by_prompt: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """The body for `path(task)`. Raises Unsupported for a field that the server does not support.
    `by_prompt` are the formats that it does not know."""
    request = task.request
    body: dict[str, Any] = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        **_sampling(task, server),
    }
    if request.max_tokens is not None:  # otherwise the server knows best what fits its context
        # A prompt without an answer is evaluated by asking for one token, which is not passed on.
        body[server.limit] = max(1, task.max_tokens or 0)
    if not request.is_chat:
        if task.logprobs is not None:
            raise Unsupported(
                "logprobs are supported for chats only by this model's backend", param="logprobs"
            )
        return {**body, "prompt": task.prompt}
    if task.described:
        body["messages"] = rewritten(request, describe_constraints(request, by_prompt))
    else:
        body["messages"] = message_dicts(request.messages)
    if assistant_prefill(request):
        if not server.continues:
            raise Unsupported(
                "this model's backend cannot continue an answer that the request begins: end the"
                " messages with one of the user",
                param="messages",
            )
        body["continue_final_message"] = True
        body["add_generation_prompt"] = False
    mode = request.tool_choice.mode
    if request.tools and ("auto" if mode == "none" else mode) not in by_prompt:
        body |= _tools(request)
    form = _response_format(task, server, by_prompt)
    if form:
        body["response_format"] = form
        if server.own_schema and "json_schema" in form:
            body["json_schema"] = form["json_schema"]["schema"]
    if task.logprobs is not None:
        body["logprobs"] = True
        body["top_logprobs"] = task.logprobs
    if request.reasoning_effort:
        body["reasoning_effort"] = request.reasoning_effort
    if request.template_kwargs and server.continues:
        body["chat_template_kwargs"] = dict(request.template_kwargs)
    return body


def _sampling(task: Task, server: ServerType) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in task.sampling.items():
        if name == "logit_bias":
            out[name] = _biases(value)
        elif name in server.sampling:
            out[server.sampling[name]] = value
        elif needed(name, value):
            raise Unsupported(
                f"{name} is not supported by this model's backend ({server.name})", param=name
            )
    return out


def _biases(pairs: Any) -> dict[str, float]:
    """OpenAI's form. A token that must not appear has the bias `false` in server.cpp's."""
    if not all(type(token) is int for token, _ in pairs):
        raise Unsupported(
            "logit_bias with texts is not supported by this model's backend: use token ids",
            param="logit_bias",
        )
    return {str(token): -100.0 if bias is False else bias for token, bias in pairs}


def _tools(request: CompletionRequest) -> dict[str, Any]:
    choice = request.tool_choice
    callable_tools(request)  # refuses a choice without its tool
    named = {"type": "function", "function": {"name": choice.name}}
    out: dict[str, Any] = {
        "tools": [tool_dict(tool) for tool in request.tools],
        "tool_choice": named if choice.mode == "named" else choice.mode,
    }
    if not request.parallel_tool_calls:
        out["parallel_tool_calls"] = False
    return out


def _response_format(
    task: Task, server: ServerType, by_prompt: frozenset[str]
) -> dict[str, Any] | None:
    """The schema of the document, or of required calls in our own form. None for neither."""
    request = task.request
    output = request.output
    if task.call_format is not None:
        must = must_call(request) and SCHEMAS not in by_prompt
        schema = calls_schema(request) if must else None
        return _schema_form(server, schema, "calls", False) if schema is not None else None
    if output.kind == "text" or describes_document(request, by_prompt):
        return None
    if output.schema is None:
        if server.strict_form:
            return _schema_form(server, {"type": "object"}, "object", False)
        return {"type": "json_object"}
    return _schema_form(server, output.schema, output.name or "answer", output.strict)


def _schema_form(
    server: ServerType, schema: Mapping[str, Any], name: str, strict: bool
) -> dict[str, Any]:
    if not server.schemas:
        return {"type": "json_object", "schema": schema}
    form = {"name": name, "schema": schema, "strict": strict}
    return {"type": "json_schema", "json_schema": form}


def native_formats(body: Mapping[str, Any]) -> frozenset[str]:
    """The formats, by their names in `core.request`, that this body asks the server for."""
    return (TOOLS if "tools" in body else frozenset()) | (
        {SCHEMAS} if "response_format" in body else frozenset()
    )


# -- the answer ------------------------------------------------------------------------------------

LONGEST_ANSWER = 1 << 18  # tokens of an answer for which the client set no limit
CHARACTERS = 4  # of a token, where the server reports none
_WRITTEN = (TextDelta, ReasoningDelta, ToolCallDelta)


class OpenAIRun(RelayRun):
    """A completion under way. `formats` are those that the server was asked for. Until it reports
    its tokens, each piece of the answer counts as one, and the prompt by its characters."""

    def __init__(
        self,
        exchange: Exchange,
        task: Task,
        caps: Capabilities,
        *args: Any,
        formats: frozenset[str] = frozenset(),
        **options: Any,
    ) -> None:
        if task.request.max_tokens is None:
            task = msgspec.structs.replace(task, max_tokens=LONGEST_ANSWER)
        super().__init__(exchange, task, caps, *args, **options)
        request = task.request
        self._called: set[int] = set()  # the calls that have a name, by index
        # In an answer whose form is described, calls are text.
        self._must_call = request.is_chat and must_call(request) and task.call_format is None
        self._formats = formats
        self._callable = {tool.name for tool in callable_tools(request)}
        self.prompt_tokens = _estimate(task, caps.by_prompt)

    def _refused(self, status: int, data: bytes) -> GatewayError:
        error = openai_refusal(status, data, self._secret, self._formats)
        if isinstance(error, BackendBusy):
            error.retry_after = pause_of(self._exchange.headers)
        return error

    def _plain(self, payloads: list[bytes], batch: Batch) -> bool:
        """Text that came together is one delta, as on llama.cpp's servers."""
        if self._single:
            return super()._plain(payloads, batch)
        texts: list[str] = []
        for payload in payloads:
            text = openai_stream.plain_text(payload) if self.begun else None
            if text is not None:
                texts.append(text)
            elif self._joined(texts, batch) or self._event(payload, batch):
                return True
        return self._joined(texts, batch)

    def _joined(self, texts: list[str], batch: Batch) -> bool:
        """Add these texts to the batch as one, and remove them. True if the run is cut."""
        if not texts:
            return False
        text, pieces = "".join(texts), len(texts) - texts.count("")
        self._left -= len(texts)
        texts.clear()
        if not self.reported:
            self.pieces += pieces
        if text:
            self._room -= len(text)
            batch.append(TextDelta(text, (), pieces))
        return self._is_too_long() and self._ended(batch)

    def _part(self, part: openai_stream.ChatChunk, batch: Batch) -> bool:
        before = len(batch)
        over = super()._part(part, batch)
        if not self.reported:
            self.pieces += len([e for e in batch[before:] if type(e) in _WRITTEN])
        for event in batch[before:]:
            if isinstance(event, ToolCallDelta) and event.index not in self._called:
                if event.name not in self._callable:
                    raise InvalidOutput("the model called a function that it may not call")
                self._called.add(event.index)
        return over

    def _end(self, reason: FinishReason) -> Finished:
        if self._must_call and not self._called and reason != "length":
            raise InvalidOutput("the model did not call a function, as tool_choice requires")
        return super()._end("tool_calls" if self._called and reason == "stop" else reason)


def _estimate(task: Task, by_prompt: frozenset[str]) -> int:
    """The number of tokens in the prompt, by its characters."""
    if not isinstance(task.prompt, str):
        return len(task.prompt)
    messages = sum(message.characters for message in task.request.messages)
    if task.described:
        messages += len(describe_constraints(task.request, by_prompt))
    return (messages or len(task.prompt)) // CHARACTERS + 1
