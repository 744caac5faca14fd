"""The GLM wrappers' API (/chat and /chat-stream) and the langchain API of chatglm.cpp (POST /).

An entry of `history` is a [question, answer] round, or several. The last object of a stream has no
content and the final token counts. `max_length` limits prompt and answer together, but the answer
alone where the backend makes the prompt from the messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from ...core.events import Finished, TextDelta
from ...core.fold import Completion
from ...core.request import CompletionRequest, Message, Role
from ...core.sampling import with_defaults
from ...core.usage import Usage
from ...errors import GatewayError, InvalidParameter
from ...wire import sse
from .. import schema_fields as doc
from ..fields import Body, ignored_fields, integer, items, model_name, required
from ..openai.answer import MAX_TOKENS, StreamEncoder, tokens
from ..response_meta import ResponseMeta, RouteDialect
from ..schema_fields import Fields, Schema

SAMPLING = {"top_p": 0.7, "temperature": 0.95}  # by default
FIELDS: Fields = {
    "prompt": doc.text("The question."),
    "history": doc.array("Earlier rounds, each a question and its answer.", [["Hello!", "Hi."]]),
    "model": doc.MODEL,
    **{name: {**doc.SAMPLERS[name], "default": SAMPLING[name]} for name in SAMPLING},
    "max_length": tokens("Maximum tokens of the answer; 0: no limit.", 0),
    "capture": doc.CAPTURE,
}


def parse(body: Body) -> CompletionRequest:
    texts = [*_history(items(body, "history")), required(body, "prompt")]
    roles: tuple[Role, Role] = ("user", "assistant")
    messages = [Message(role=roles[i % 2], content=text) for i, text in enumerate(texts)]
    length = integer(body, "max_length", 0, MAX_TOKENS) or None
    return CompletionRequest(
        model=model_name(body),
        messages=tuple(m for m in messages if m.content or m.role != "user" or m is messages[-1]),
        sampling=with_defaults(body, SAMPLING),
        max_tokens=length,
        max_length=length,
        warnings=ignored_fields(body, FIELDS.keys()),
    )


def _history(history: list[Any]) -> list[str]:
    texts = []
    for i, entry in enumerate(history):
        at = f"history[{i}]"
        if not isinstance(entry, list) or not all(type(part) is str for part in entry):
            raise InvalidParameter(at, "must be a list of strings, alternating question and answer")
        if len(entry) % 2:
            raise InvalidParameter(at, "has a question without an answer")
        texts += entry
    return texts


def error(fault: GatewayError) -> dict[str, Any]:
    """FastAPI's error format: these servers are written with FastAPI."""
    return {"detail": fault.message}


def _object(meta: ResponseMeta, content: str, counts: Usage) -> dict[str, Any]:
    return {
        "content": content,
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.completion,
        "total_tokens": counts.total,
        "model": meta.model,
        "object": "chat.completion",
    }


def reply(
    meta: ResponseMeta, request: CompletionRequest, completions: Sequence[Completion]
) -> dict[str, Any]:
    (completion,) = completions
    return _object(meta, completion.text, completion.finished.usage)


def langchain_reply(
    meta: ResponseMeta, request: CompletionRequest, completions: Sequence[Completion]
) -> dict[str, Any]:
    """The whole answer of langchain_api.py, with the history and this round."""
    (completion,) = completions
    history: list[list[str]] = []
    question = ""
    for message in (*request.messages, Message(role="assistant", content=completion.text)):
        if message.role == "user":
            question = message.content
        else:
            history.append([question, message.content])
            question = ""
    return {
        "response": completion.text,
        "history": history,
        "status": 200,
        "time": datetime.fromtimestamp(meta.created, UTC).strftime("%Y-%m-%d %H:%M:%S"),
    }


class Encoder(StreamEncoder):
    """Encodes events as the stream's objects; pieces count as tokens until the end."""

    error = staticmethod(error)
    _pieces = 0

    def _event(self, choice: int, event: Any, out: list[bytes]) -> None:
        if isinstance(event, TextDelta) and event.text:
            self._pieces += 1
            out.append(sse.encode(_object(self._meta, event.text, Usage(0, self._pieces))))
        elif isinstance(event, Finished):
            out.append(sse.encode(_object(self._meta, "", event.usage)))


def _parse_stream(body: Body) -> CompletionRequest:
    return msgspec.structs.replace(parse(body), stream=True)


chat = RouteDialect(parse, reply, error, Encoder)
chat_stream = RouteDialect(_parse_stream, reply, error, Encoder)
langchain = RouteDialect(parse, langchain_reply, error, Encoder)

SCHEMAS: dict[str, Schema] = {
    "GLMChatRequest": doc.body("prompt", **FIELDS),
    "GLMError": doc.object_of("detail", detail=doc.TEXT),
}
