"""The driver for an engine.

The engine renders the prompt and counts its tokens, so the driver sends messages unchanged, and a
prompt that does not fit is a ContextExceeded.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from ...core.decoding import decoded_object
from ...core.events import Batch, Finished, Started, TextDelta
from ...core.request import CompletionRequest, Tool, ToolCall
from ...core.sampling import FIELDS, needed
from ...core.task import Task
from ...core.usage import Timings, Usage
from ...errors import (
    BackendDown,
    BadRequest,
    ContextExceeded,
    InvalidParameter,
    Unsupported,
    UpstreamFault,
    UpstreamTimeout,
)
from ...prompting.constraints import callable_tools, must_call
from ...prompting.formats.base import CallFormat
from ...prompting.formats.named_calls import CHATGLM3, GLM4
from ...prompting.prompt import assistant_prefill, tool_dict
from ...prompting.stages.calls import CallStage
from ...runtime.cancel import Cancel
from ...runtime.installation import install
from ..driver import Capabilities, Driver, OnCapabilities, ignore, new_id
from . import protocol
from .supervisor import Launch, PendingCall, Supervisor

SLICE = 0.5  # seconds a health check waits for a model that is being loaded


class ChatGLM(Driver):
    """A driver for one model file; `launch` starts the process of an engine. The model is loaded at
    the first probe if `eager`, otherwise at the first request."""

    def __init__(
        self,
        path: str,
        launch: Launch,
        *,
        eager: bool = True,
        n_ctx: int = 0,
        timeout: float = 600.0,
        tick: float = 15.0,
    ) -> None:
        self.name = Path(path).stem
        self._path, self._eager, self._n_ctx = path, eager, n_ctx
        self.timeout, self.tick = timeout, min(tick or timeout, timeout)
        load = protocol.Load(str(Path(path).resolve()), n_ctx)
        self.supervisor = Supervisor(self.name, load, launch)

    def probe(self, deadline: float, on_capabilities: OnCapabilities = ignore) -> Capabilities:
        if self._eager or self.supervisor.failing:
            on_capabilities(self._outline())
            if not self.supervisor.is_loaded(min(deadline, SLICE), Cancel()):
                raise BackendDown("the model is loading")
        return self._outline()

    def _outline(self) -> Capabilities:
        """The capabilities from the model file, with the engine's version once it runs."""
        file, ready = look(self._path), self.supervisor.ready
        version = ready.version if ready is not None else ""
        return Capabilities(
            dialect=file.family,
            slots=1,
            n_ctx=min(file.n_ctx, self._n_ctx or file.n_ctx),
            native=True,
            truncates=False,
            lacks=LACKS,
            models=(self.name,),
            build=f"chatglm_cpp {version}".strip(),
        )

    def alive(self) -> bool:
        return self.supervisor.alive()

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> ChatGlmRun:
        file = look(self._path)
        check(task, file.family)
        order = protocol.Generate(
            prompt=prompt(task, file.family),
            max_tokens=task.max_tokens,
            marks=bool(callable_tools(task.request)) and file.family in CALLS,
            **sampling(task),
        )
        return ChatGlmRun(self, order, task, file, cancel)

    def prompt_ids(self, task: Task, cancel: Cancel | None = None) -> list[int]:
        order = protocol.Encode(0, prompt(task, look(self._path).family))
        return list(self._converted(order, cancel).ids)

    def tokenize(self, text: str, special: bool = False, cancel: Cancel | None = None) -> list[int]:
        order = protocol.Encode(0, protocol.PromptMessage(text=text), not special)
        return list(self._converted(order, cancel).ids)

    def detokenize(self, tokens: list[int]) -> str:
        return self._converted(protocol.Decode(0, tuple(tokens))).text

    def close(self) -> None:
        self.supervisor.close()

    def _converted(self, order: protocol.Small, cancel: Cancel | None = None) -> protocol.Converted:
        """The answer to a small order, perhaps behind a prompt's evaluation. Raises Cancelled."""
        until = time.monotonic() + self.timeout
        call = self.supervisor.call(order, self.timeout, cancel or Cancel())
        if call is None:
            raise UpstreamTimeout("the model is not loaded yet")
        try:
            answers = call.receive(max(0.0, until - time.monotonic()))
        finally:
            call.close()
        if not answers:
            raise UpstreamTimeout("the model timed out")
        if isinstance(answers[0], protocol.Converted):
            return answers[0]
        raise _fault(answers[0])


class ChatGlmRun:
    def __init__(
        self, driver: ChatGLM, order: protocol.Generate, task: Task, file: ModelFile, cancel: Cancel
    ) -> None:
        self._supervisor, self._timeout, self._tick = driver.supervisor, driver.timeout, driver.tick
        self._order, self._cancel = order, cancel
        offered = callable_tools(task.request) if task.request.is_chat else ()
        lines = opening(task.request, file.family) if offered else ()
        begun = "".join(lines)
        if task.request.is_chat:
            begun += assistant_prefill(task.request)
        self._begun = bool(begun)  # whether the answer has text
        self._calls: CallStage | None = None
        if offered and file.family in CALLS:
            tools = {tool.name: tool.parameters for tool in offered}
            self._calls = CallStage(CALLS[file.family], tools, new_id, free=False, must=bool(lines))
            self._calls.feed([TextDelta(begun)])
        self._call: PendingCall | None = None
        self._over = False
        self.slot = self._prompt = self._tokens = 0

    def usage(self) -> Usage:
        return Usage(self._prompt, self._tokens)

    def close(self) -> None:
        if self._call is not None:
            self._call.close()

    def __iter__(self) -> Iterator[Batch]:
        silence = 0.0
        try:
            while (call := self._supervisor.call(self._order, self._tick, self._cancel)) is None:
                silence = self._waited(silence)
                yield []
            self._call = call
            silence = 0.0
            while not self._over:
                answers = call.receive(self._tick)
                silence = 0.0 if answers else self._waited(silence)
                batch, fault = self._batch(answers)
                if batch or not answers:
                    yield batch
                if fault is not None:
                    raise fault
        finally:
            self.close()

    def _waited(self, silence: float) -> float:
        silence += self._tick
        if silence >= self._timeout:
            self._supervisor.kill(f"no output for {silence:g} s")
            raise UpstreamTimeout("the model timed out")
        return silence

    def _batch(self, answers: list[protocol.Answer | None]) -> tuple[Batch, Exception | None]:
        """The events of some answers, and the exception that ended them, if any."""
        batch: Batch = []
        for answer in answers:
            if isinstance(answer, protocol.Delta):
                self._tokens = answer.tokens
                batch += self._text(answer.text)
            elif isinstance(answer, protocol.Began):
                self._prompt = answer.prompt_tokens
                batch.append(Started(slot=self.slot))
            else:
                self._over = True
                if not isinstance(answer, protocol.Done):
                    return batch, _fault(answer)
                batch += self._finished(answer)
                self._supervisor.proven()
                break  # its process may have ended since; the answer is whole
        return batch, None

    def _text(self, text: str) -> Batch:
        """Text without the blank line that begins an answer, and the calls in it."""
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        batch: Batch = [TextDelta(text)] if text else []
        return self._calls.feed(batch) if self._calls is not None else batch

    def _finished(self, done: protocol.Done) -> Batch:
        self._tokens = done.tokens
        timings = Timings(
            cache_n=0,
            prompt_n=self._prompt,
            prompt_ms=done.prompt_ms,
            predicted_n=done.tokens,
            predicted_ms=done.predicted_ms,
        )
        finished = Finished(reason=done.reason, usage=self.usage(), timings=timings, slot=self.slot)
        return self._calls.feed([finished]) if self._calls is not None else [finished]


def _fault(answer: protocol.Answer | None) -> Exception:
    if isinstance(answer, protocol.Refused):
        if answer.kind == "context":
            return ContextExceeded(answer.n_prompt, answer.n_ctx)
        if answer.kind == "tokens":
            return BadRequest("the prompt contains token ids outside the model's vocabulary")
        return UpstreamFault("the model failed", detail=answer.reason[:300])
    return UpstreamFault("the model process exited", detail=repr(answer))


# -- model files ---------------------------------------------------------------------------------

log = logging.getLogger("slotproxy.chatglm")

TYPES: dict[int, protocol.Family] = {1: "chatglm", 2: "chatglm2", 3: "chatglm3", 4: "glm-4"}
_HEAD = struct.Struct("<4sii13i")


class ModelFile(Struct, frozen=True):
    family: protocol.Family
    n_ctx: int


def look(path: str) -> ModelFile:
    """Read a model file's header, without the library. The format (chatglm_cpp's convert.py) is
    "ggml", then little-endian int32: model type, config version and values. Of these the largest
    context is the seventh in version 1, and the eleventh in version 2. Raises BackendDown, without
    a folder in its message, for an invalid file."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD.size)
    except OSError as error:
        raise BackendDown(f"the model file cannot be read: {error.strerror}") from None
    if len(head) < _HEAD.size or not head.startswith(b"ggml"):
        raise BackendDown("the file is not a chatglm_cpp model")
    _, kind, version, *values = _HEAD.unpack(head)
    family = TYPES.get(kind)
    if family is None or version not in (1, 2):
        raise BackendDown(f"unsupported model file: type {kind}, version {version}")
    n_ctx = values[6] if version == 1 else values[10]
    if n_ctx <= 0:
        raise BackendDown("the model file does not state a context length")
    return ModelFile(family, n_ctx)


def missing(file: str) -> str:
    """The reason why this model file cannot run, "" if it can."""
    if importlib.util.find_spec("chatglm_cpp") is None:
        return f"chatglm_cpp is not installed: {install('chatglm')}"
    try:
        look(file)
    except BackendDown as error:
        return error.message
    return ""


def bundled_instead(file: Path) -> Path | None:
    if missing(str(file)):
        return None
    log.info("serving the bundled ChatGLM model, %s", file.name)
    return file


# -- what a model gets ---------------------------------------------------------------------------
#
# ChatGLM3 and GLM-4 name a role before each turn; a call is the tool's name on that line, then
# Python (ChatGLM3) or JSON (GLM-4), and its result an observation. ChatGLM and ChatGLM2 only have
# rounds of question and answer. The wording of the tool lists is that of the models' authors.

# The forms of the calls of the families that have tools.
CALLS: dict[str, CallFormat] = {"chatglm3": CHATGLM3, "glm-4": GLM4}
_CHATGLM3_SYSTEM = "Answer the following questions as best as you can."
_CHATGLM3_TOOLS = " You have access to the following tools:\n"
_GLM4_SYSTEM = (
    "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，"
    "你的任务是针对用户的问题和要求提供适当的答复和支持。"
)
_GLM4_CALLS = "在调用上述函数时，请使用 Json 格式表示调用的参数。"


def prompt(task: Task, family: protocol.Family) -> protocol.PromptMessage:
    """The prompt of a task. Raises InvalidParameter, Unsupported."""
    request = task.request
    if not request.is_chat:
        if isinstance(task.prompt, str):
            return protocol.PromptMessage(text=task.prompt)
        return protocol.PromptMessage(ids=task.prompt)
    if any(message.media for message in request.messages):
        raise Unsupported("this model's backend accepts text only", param="messages")
    prefix = assistant_prefill(request)
    if prefix:
        request = msgspec.structs.replace(request, messages=request.messages[:-1])
    if family not in CALLS:
        return protocol.PromptMessage(turns=_rounds(request, family), begun=prefix)
    turns = tuple(_turns(request, family))
    return protocol.PromptMessage(turns=turns, opening=opening(request, family), begun=prefix)


def opening(request: CompletionRequest, family: protocol.Family) -> tuple[str, ...]:
    """The lines that begin the answer if one tool must be called: its name, and of a call."""
    offered = callable_tools(request)
    if not must_call(request) or len(offered) != 1:
        return ()
    name = f"{offered[0].name}\n"
    return (name, "```python\ntool_call(") if family == "chatglm3" else (name,)


def _turns(request: CompletionRequest, family: protocol.Family) -> Iterable[protocol.ChatTurn]:
    system = "\n".join(m.content for m in request.messages if m.role == "system")
    if callable_tools(request):
        # All tools, even if one is named, so that the beginning of a conversation stays the same.
        system = _with_tools(system, request.tools, family)
    if system:
        yield protocol.ChatTurn("system", system)
    for message in request.messages:
        if message.role == "tool":
            yield protocol.ChatTurn("observation", message.content)
        elif message.role == "user":
            yield protocol.ChatTurn("user", message.content)
        elif message.role == "assistant":
            if message.content or not message.tool_calls:
                yield protocol.ChatTurn("assistant", message.content)
            for call in message.tool_calls:
                yield protocol.ChatTurn(
                    "assistant", _call(call, family), head=call.name.replace("\n", " ")
                )


def _rounds(request: CompletionRequest, family: protocol.Family) -> tuple[protocol.ChatTurn, ...]:
    """Questions and answers in turns, a question last."""
    if callable_tools(request):
        raise Unsupported(f"{family} models do not support tools", param="tools")
    system = "\n".join(m.content for m in request.messages if m.role == "system")
    out: list[protocol.ChatTurn] = []
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
        out.append(protocol.ChatTurn(role, content))
    if len(out) % 2 == 0:
        raise InvalidParameter(
            "messages", f"must end with a user message: this is required by {family} models"
        )
    return tuple(out)


def _with_tools(system: str, offered: Sequence[Tool], family: protocol.Family) -> str:
    functions = [tool_dict(tool)["function"] for tool in offered]
    if family == "chatglm3":
        return (system or _CHATGLM3_SYSTEM) + _CHATGLM3_TOOLS + _listed(functions)
    parts = [(system or _GLM4_SYSTEM) + "\n\n# 可用工具"]
    for function in functions:
        parts.append(f"## {function['name']}\n\n{_listed(function)}\n{_GLM4_CALLS}")
    return "\n\n".join(parts)


def _listed(value: object) -> str:
    return json.dumps(value, indent=4, ensure_ascii=False)


def _call(call: ToolCall, family: protocol.Family) -> str:
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


def check(task: Task, family: protocol.Family) -> None:
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
