"""Bodies for ``/v1/chat/completions`` and ``/v1/completions`` of a server that speaks OpenAI's API.

The format is OpenAI's API reference. The server renders the prompt, parses tool calls and enforces
schemas itself; what it writes is validated at the end.
"""

from __future__ import annotations

from typing import Any

from ...core.request import CompletionRequest
from ...core.sampling import needed
from ...core.task import Task
from ...errors import Unsupported
from ...prompting.constraints import callable_tools
from ...prompting.prompt import begun, tool_dict
from ..relay import message_dict
from .server_types import ServerType

CHAT = "/chat/completions"
TEXT = "/completions"


def path(task: Task) -> str:
    return CHAT if task.request.is_chat else TEXT


def payload(task: Task, model: str, server: ServerType, lenient: bool = False) -> dict[str, Any]:
    """The body for `path(task)`. Raises Unsupported for a field that the server does not support;
    with `lenient`, it is omitted."""
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
    body["messages"] = [message_dict(message) for message in request.messages]
    if begun(request):
        if not server.continues:
            raise Unsupported(
                "this model's backend cannot continue an answer that the request begins: end the"
                " messages with one of the user",
                param="messages",
            )
        body["continue_final_message"] = True
        body["add_generation_prompt"] = False
    if request.tools:
        body |= _tools(request, server)
    if request.output.kind != "text":
        body["response_format"] = _response_format(request, server)
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


def _tools(request: CompletionRequest, server: ServerType) -> dict[str, Any]:
    choice = request.tool_choice
    mode, name = choice.mode, choice.name
    tools = callable_tools(request)  # refuses a choice without its tool
    if mode == "required" and not server.requires and len(tools) == 1:
        mode, name = "named", tools[0].name
    named = {"type": "function", "function": {"name": name}}
    out: dict[str, Any] = {
        "tools": [tool_dict(tool) for tool in request.tools],
        "tool_choice": named if mode == "named" else mode,
    }
    if not request.parallel_tool_calls:
        out["parallel_tool_calls"] = False
    return out


def _response_format(request: CompletionRequest, server: ServerType) -> dict[str, Any]:
    output = request.output
    if output.kind == "json_object" or output.schema is None:
        return {"type": "json_object"}
    if not server.schemas:
        return {"type": "json_object", "schema": output.schema}
    schema = {"name": output.name or "answer", "schema": output.schema, "strict": output.strict}
    return {"type": "json_schema", "json_schema": schema}
