"""A request as a ChatGLM model takes it: turns, with tools in the family's own words.

ChatGLM3 and GLM-4 name a role before each turn; a call is the tool's name on that line, then Python
(ChatGLM3) or JSON (GLM-4), and its result an observation. ChatGLM and ChatGLM2 know rounds of
question and answer only: what the system says is put before the first question, and tools are
refused. The wording of the tool lists is that of the models' authors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from ...core.decoding import decoded
from ...core.invalid import Invalid
from ...core.request import CompletionRequest, Tool, ToolCall
from ...core.task import Task
from ...errors import Unsupported
from ...prompting.bind import callable_tools, must_call
from ...prompting.prompt import begun
from .protocol import Family, Prompt, Turn

WITH_TOOLS = ("chatglm3", "glm-4")
_CHATGLM3_SYSTEM = "Answer the following questions as best as you can."
_CHATGLM3_TOOLS = " You have access to the following tools:\n"
_GLM4_SYSTEM = (
    "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，"
    "你的任务是针对用户的问题和要求提供适当的答复和支持。"
)
_GLM4_CALLS = "在调用上述函数时，请使用 Json 格式表示调用的参数。"


def prompt(task: Task, family: Family) -> Prompt:
    """The prompt of a task. Raises Invalid, Unsupported."""
    request = task.request
    if not request.is_chat:
        if isinstance(task.prompt, str):
            return Prompt(text=task.prompt)
        return Prompt(ids=task.prompt)
    if any(message.media for message in request.messages):
        raise Unsupported("the backend of this model takes text only", param="messages")
    said = begun(request)
    if said:
        request = msgspec.structs.replace(request, messages=request.messages[:-1])
    if family not in WITH_TOOLS:
        return Prompt(turns=_rounds(request, family), begun=said)
    turns = tuple(_turns(request, family))
    return Prompt(turns=turns, opening=opening(request, family), begun=said)


def opening(request: CompletionRequest, family: Family) -> tuple[str, ...]:
    """The answer's first lines, where one tool has to be called: its name, and how a call begins,
    are then not the model's to choose."""
    offered = callable_tools(request)
    if not must_call(request) or len(offered) != 1:
        return ()
    name = f"{offered[0].name}\n"
    return (name, "```python\ntool_call(") if family == "chatglm3" else (name,)


def _turns(request: CompletionRequest, family: Family) -> Iterable[Turn]:
    system = "\n".join(m.content for m in request.messages if m.role == "system")
    if callable_tools(request):
        # All of them, also where one is named: the beginning of a conversation stays the same.
        listing = _chatglm3_tools if family == "chatglm3" else _glm4_tools
        system = listing(system, request.tools)
    if system:
        yield Turn("system", system)
    for message in request.messages:
        if message.role == "tool":
            yield Turn("observation", message.content)
        elif message.role == "user":
            yield Turn("user", message.content)
        elif message.role == "assistant":
            if message.content or not message.tool_calls:
                yield Turn("assistant", message.content)
            for call in message.tool_calls:
                yield Turn("assistant", _call(call, family), head=call.name.replace("\n", " "))


def _rounds(request: CompletionRequest, family: Family) -> tuple[Turn, ...]:
    """Questions and answers by turns, a question last."""
    if callable_tools(request):
        raise Unsupported(f"models of the family {family} call no tools", param="tools")
    system = "\n".join(m.content for m in request.messages if m.role == "system")
    out: list[Turn] = []
    for number, message in enumerate(request.messages):
        if message.role == "system":
            continue
        if message.role == "tool" or message.tool_calls:
            raise Unsupported(f"models of the family {family} call no tools", param="messages")
        role = "assistant" if len(out) % 2 else "user"
        if message.role != role:
            raise Invalid(
                f"messages[{number}].role",
                f"must be {role}: models of the family {family} take question and answer by turns",
            )
        content = f"{system}\n\n{message.content}" if system and not out else message.content
        out.append(Turn(role, content))
    if len(out) % 2 == 0:
        raise Invalid("messages", f"must end with a question: the model is of the family {family}")
    return tuple(out)


def _function(tool: Tool) -> dict[str, Any]:
    return {
        "name": tool.name,
        "description": tool.description,
        "parameters": msgspec.to_builtins(tool.parameters),
    }


def _listed(value: object) -> str:
    return json.dumps(value, indent=4, ensure_ascii=False)


def _chatglm3_tools(system: str, offered: Sequence[Tool]) -> str:
    listing = _listed([_function(tool) for tool in offered])
    return (system or _CHATGLM3_SYSTEM) + _CHATGLM3_TOOLS + listing


def _glm4_tools(system: str, offered: Sequence[Tool]) -> str:
    parts = [(system or _GLM4_SYSTEM) + "\n\n# 可用工具"]
    for tool in offered:
        parts.append(f"## {tool.name}\n\n{_listed(_function(tool))}\n{_GLM4_CALLS}")
    return "\n\n".join(parts)


def _call(call: ToolCall, family: Family) -> str:
    """A past call as the family writes it, without its name. Arguments that are no object are
    written as they came."""
    if family == "glm-4":
        return call.arguments
    try:
        arguments = decoded(call.arguments or "{}")
    except ValueError:
        arguments = None
    if isinstance(arguments, dict):
        inner = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    else:
        inner = call.arguments
    return f"```python\ntool_call({inner})\n```"
