"""Bodies for ``/v1/chat/completions`` and ``/v1/completions`` of a server that speaks OpenAI's API.

The format is OpenAI's API reference. The server renders the prompt, parses tool calls and enforces
schemas itself; what it writes is validated at the end. What it does not know is described in the
messages instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.request import SCHEMAS, TOOLS, CompletionRequest, describes_document
from ...core.sampling import needed
from ...core.task import Task
from ...errors import Unsupported
from ...prompting.constraints import callable_tools, must_call
from ...prompting.prompt import assistant_prefill, tool_dict
from ...prompting.stages.prompted_output import calls_schema, describe_constraints
from ..relay import message_dict, rewritten
from .server_types import ServerType

CHAT = "/chat/completions"
TEXT = "/completions"
_ANY = {"type": "json_object"}


def path(task: Task) -> str:
    return CHAT if task.request.is_chat else TEXT


def payload(
    task: Task,
    model: str,
    server: ServerType,
    lenient: bool = False,
    by_prompt: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """The body for `path(task)`. Raises Unsupported for a field that the server does not support;
    with `lenient`, it is omitted. `by_prompt` are the formats that it does not know."""
    request = task.request
    body: dict[str, Any] = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        **_sampling(task, server, lenient),
    }
    if request.max_tokens is not None:  # otherwise the server knows best what fits its context
        # A prompt without an answer is evaluated by asking for one token, which is not passed on.
        body[server.limit] = max(1, task.max_tokens or 0)
    if not request.is_chat:
        if task.logprobs is not None and not lenient:
            raise Unsupported(
                "logprobs are supported for chats only by this model's backend", param="logprobs"
            )
        return {**body, "prompt": task.prompt}
    if task.described:
        body["messages"] = rewritten(request, describe_constraints(request, by_prompt))
    else:
        body["messages"] = [message_dict(message) for message in request.messages]
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


def _sampling(task: Task, server: ServerType, lenient: bool) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in task.sampling.items():
        if name == "logit_bias":
            out[name] = _biases(value)
        elif name in server.sampling:
            out[server.sampling[name]] = value
        elif needed(name, value) and not lenient:
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
        return _ANY
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
