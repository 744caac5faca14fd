"""What a ChatGLM model gets: turns, with tools in the family's own wording, sampling
fields of chatglm_cpp.

ChatGLM3 and GLM-4 name a role before each turn; a call is the tool's name on that line, then Python
(ChatGLM3) or JSON (GLM-4), and its result an observation. ChatGLM and ChatGLM2 only have rounds of
question and answer. The wording of the tool lists is that of the models' authors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from ...core.decoding import decoded_object
from ...core.request import CompletionRequest, Tool, ToolCall
from ...core.sampling import FIELDS, needed
from ...core.task import Task
from ...errors import InvalidParameter, Unsupported
from ...prompting.constraints import callable_tools, must_call
from ...prompting.formats.base import CallFormat
from ...prompting.formats.named_calls import CHATGLM3, GLM4
from ...prompting.prompt import assistant_prefill, tool_dict
from .protocol import ChatTurn, Family, PromptMessage

# The forms of the calls of the families that have tools.
CALLS: dict[str, CallFormat] = {"chatglm3": CHATGLM3, "glm-4": GLM4}
_CHATGLM3_SYSTEM = "Answer the following questions as best as you can."
_CHATGLM3_TOOLS = " You have access to the following tools:\n"
_GLM4_SYSTEM = (
    "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，"
    "你的任务是针对用户的问题和要求提供适当的答复和支持。"
)
_GLM4_CALLS = "在调用上述函数时，请使用 Json 格式表示调用的参数。"


def prompt(task: Task, family: Family) -> PromptMessage:
    """The prompt of a task. Raises InvalidParameter, Unsupported."""
    request = task.request
    if not request.is_chat:
        if isinstance(task.prompt, str):
            return PromptMessage(text=task.prompt)
        return PromptMessage(ids=task.prompt)
    if any(message.media for message in request.messages):
        raise Unsupported("this model's backend accepts text only", param="messages")
    prefix = assistant_prefill(request)
    if prefix:
        request = msgspec.structs.replace(request, messages=request.messages[:-1])
    if family not in CALLS:
        return PromptMessage(turns=_rounds(request, family), begun=prefix)
    turns = tuple(_turns(request, family))
    return PromptMessage(turns=turns, opening=opening(request, family), begun=prefix)


def opening(request: CompletionRequest, family: Family) -> tuple[str, ...]:
    """The lines that begin the answer if one tool must be called: its name, and of a call."""
    offered = callable_tools(request)
    if not must_call(request) or len(offered) != 1:
        return ()
    name = f"{offered[0].name}\n"
    return (name, "```python\ntool_call(") if family == "chatglm3" else (name,)


def _turns(request: CompletionRequest, family: Family) -> Iterable[ChatTurn]:
    system = "\n".join(m.content for m in request.messages if m.role == "system")
    if callable_tools(request):
        # All tools, even if one is named, so that the beginning of a conversation stays the same.
        system = _with_tools(system, request.tools, family)
    if system:
        yield ChatTurn("system", system)
    for message in request.messages:
        if message.role == "tool":
            yield ChatTurn("observation", message.content)
        elif message.role == "user":
            yield ChatTurn("user", message.content)
        elif message.role == "assistant":
            if message.content or not message.tool_calls:
                yield ChatTurn("assistant", message.content)
            for call in message.tool_calls:
                yield ChatTurn("assistant", _call(call, family), head=call.name.replace("\n", " "))


def _rounds(request: CompletionRequest, family: Family) -> tuple[ChatTurn, ...]:
    """Questions and answers in turns, a question last."""
    if callable_tools(request):
        raise Unsupported(f"{family} models do not support tools", param="tools")
    system = "\n".join(m.content for m in request.messages if m.role == "system")
    out: list[ChatTurn] = []
    for number, message in enumerate(request.messages):
        if message.role == "system":
            continue
        if message.role == "tool" or message.tool_calls:
            raise Unsupported(f"{family} models do not support tools", param="messages")
        role = "assistant" if len(out) % 2 else "user"
        if message.role != role:
            raise InvalidParameter(
                f"messages[{number}].role",
                f"must be {role}: {family} models require alternating user and assistant messages",
            )
        content = f"{system}\n\n{message.content}" if system and not out else message.content
        out.append(ChatTurn(role, content))
    if len(out) % 2 == 0:
        raise InvalidParameter(
            "messages", f"must end with a user message: this is required by {family} models"
        )
    return tuple(out)


def _with_tools(system: str, offered: Sequence[Tool], family: Family) -> str:
    functions = [tool_dict(tool)["function"] for tool in offered]
    if family == "chatglm3":
        return (system or _CHATGLM3_SYSTEM) + _CHATGLM3_TOOLS + _listed(functions)
    parts = [(system or _GLM4_SYSTEM) + "\n\n# 可用工具"]
    for function in functions:
        parts.append(f"## {function['name']}\n\n{_listed(function)}\n{_GLM4_CALLS}")
    return "\n\n".join(parts)


def _listed(value: object) -> str:
    return json.dumps(value, indent=4, ensure_ascii=False)


def _call(call: ToolCall, family: Family) -> str:
    """A past call as the family writes it, without its name; other arguments stay as they are."""
    if family == "glm-4":
        return call.arguments
    inner, arguments = call.arguments, decoded_object(call.arguments)
    if arguments is not None:
        inner = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return f"```python\ntool_call({inner})\n```"


# -- sampling -------------------------------------------------------------------------------------
#
# The library supports temperature, top_k, top_p and a repetition penalty over all tokens so far. A
# parameter with a neutral value is accepted, as is a hint; any other is refused by name.

# The library's own defaults, which its server uses too.
TEMPERATURE, TOP_P, TOP_K, PENALTY = 0.95, 0.7, 0, 1.0
COLDEST = 0.001  # lower values overflow the probabilities; this is practically greedy
HONOURED = frozenset(("temperature", "top_p", "top_k", "repeat_penalty", "repeat_last_n"))
LACKS = frozenset(FIELDS) - HONOURED - {"seed"}  # a seed has a warning of its own


def sampling(task: Task) -> dict[str, Any]:
    """The sampling fields of `Generate`. Raises InvalidParameter, Unsupported."""
    fields = task.sampling
    for name, value in fields.items():
        if name not in HONOURED and needed(name, value):
            raise _unsupported(name)
    temperature = fields.get("temperature", TEMPERATURE)
    top_p = fields.get("top_p", TOP_P)
    penalty = fields.get("repeat_penalty", PENALTY)
    last_n = fields.get("repeat_last_n", -1)
    if last_n == 0:
        penalty = 1.0
    elif last_n > 0 and penalty != 1:
        raise _unsupported("repeat_last_n")
    if penalty <= 0:
        raise InvalidParameter("repeat_penalty", "must be greater than 0")
    # For the library, top_p 0 means no limit; for everybody else, only the likeliest token.
    greedy = temperature < COLDEST or top_p == 0
    return {
        "temperature": 0.0 if greedy else temperature,
        "top_p": top_p,
        "top_k": fields.get("top_k", TOP_K),
        "repeat_penalty": penalty,
    }


def check(task: Task, family: Family) -> None:
    """Refuse features other than sampling that ChatGLM does not support. Raises Unsupported."""
    request = task.request
    if task.suffix is not None:
        raise _unsupported("suffix")
    if task.logprobs is not None:
        raise _unsupported("logprobs")
    if request.output.kind != "text":
        raise _unsupported("response_format")
    if must_call(request) and family in CALLS and not opening(request, family):
        raise Unsupported(
            "this model's backend can be forced to call one specific tool, not any one of several",
            param="tool_choice",
        )


def _unsupported(name: str) -> Unsupported:
    return Unsupported(f"{name} is not supported by this model's backend (chatglm_cpp)", param=name)
