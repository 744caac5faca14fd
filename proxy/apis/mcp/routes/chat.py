"""The tool `chat` of /mcp: a model answers one message, as it does a chat completion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Annotated, Any

import msgspec
from flask import Response

from ....core.fold import Completion
from ....core.request import CompletionRequest, Tool
from ....dialogue.finding import arguments, schema_of
from ....errors import GatewayError
from ....gateway import Answer, Caller
from ....runtime.cancel import Cancel
from ....web.fastpath import BodyAndHeaders, Environ
from ....web.observability import Record
from ....web.services import Services
from ....web.spine import completion_view
from ...openai import chat as openai_chat
from ...response_meta import ResponseMeta
from .. import server as mcp_server
from .progress import TextProgress


class _Chat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    message: Annotated[str, msgspec.Meta(min_length=1, description="what to ask the model")]
    model: Annotated[
        str, msgspec.Meta(max_length=1024, description="its name; none: the default model")
    ] = ""
    system: Annotated[str, msgspec.Meta(description="instructions for the model")] = ""
    max_tokens: Annotated[
        int, msgspec.Meta(ge=0, le=1 << 24, description="the longest answer; 0: no limit")
    ] = 0


TOOL = Tool("chat", "Ask a language model and return its answer", schema_of(_Chat))


class _ChatTool:
    """The dialect of the tool: a body of a chat completion, and an answer as a tool's result."""

    def __init__(self, progress: TextProgress | None = None) -> None:
        """`progress` encodes the answer as a stream."""
        self._progress = progress

    def Encoder(self, meta: ResponseMeta, request: CompletionRequest) -> TextProgress:
        assert self._progress is not None, "only a stream needs it"
        return self._progress

    def parse(self, body: Mapping[str, Any]) -> CompletionRequest:
        return openai_chat.parse(body)

    def reply(
        self, meta: ResponseMeta, request: CompletionRequest, completions: Sequence[Completion]
    ) -> Any:
        return mcp_server.content(completions[0].text)

    def error(self, fault: GatewayError) -> dict[str, Any]:
        return mcp_server.content(fault.message, failed=True)


def chat(
    services: Services,
    environ: Environ,
    given: Mapping[str, Any],
    cancel: Cancel,
    make_progress: Callable[[int], TextProgress] | None = None,
) -> Mapping[str, Any] | BodyAndHeaders:
    """The result of the tool; with `make_progress`, which gets the length of the longest answer,
    the stream that has it. `cancel` ends the answer, as a client that disconnects does. Raises
    ToolError."""
    asked = arguments(_Chat, given)
    progress = None if make_progress is None else make_progress(asked.max_tokens)
    messages = [{"role": "user", "content": asked.message}]
    if asked.system:
        messages.insert(0, {"role": "system", "content": asked.system})
    body: dict[str, Any] = {"model": asked.model, "messages": messages}
    if progress is not None:
        body["stream"] = True
    if asked.max_tokens:
        body["max_tokens"] = asked.max_tokens
    data = msgspec.json.encode(body)
    inner = {**environ, "wsgi.input": BytesIO(data), "CONTENT_LENGTH": str(len(data))}

    def begin(request: CompletionRequest, own: Cancel, caller: Caller) -> Answer:
        cancel.pass_on(own)
        return services.gateway.answer(request, own, caller)

    sent = completion_view(services, inner, _ChatTool(progress), "chatcmpl-", begin=begin)
    if isinstance(sent, Response):
        Record.of(environ).status = 200  # the error is in the result
        data = sent.get_data()
    elif progress is not None:
        return sent
    else:
        data = b"".join(sent[0])
    result: Mapping[str, Any] = msgspec.json.decode(data)
    return result
