"""Encodes events as an Anthropic Message, whole or as an event stream.

    message_start (content_block_start content_block_delta* content_block_stop)*
    message_delta message_stop

A call to an MCP server, or a web search, is two blocks: the call, and its result. Only one block is
open at a time. message_start has the counts known by then (else 0), and message_delta the final
ones, which clients use. Silence is sent as a ping event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from ...core import events
from ...core.events import TextDelta
from ...core.fold import Completion
from ...core.request import CompletionRequest, ToolCall
from ...core.usage import Usage
from ...errors import BudgetExceeded, ContextExceeded, GatewayError, LimitReached
from ...wire import sse
from ..openai.tools import as_object
from ..response_meta import ResponseMeta, compaction_field
from . import web_search
from .context_edits import COMPACTION, iterations, usage

REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "overloaded_error",
    503: "overloaded_error",
    504: "timeout_error",
}
OVERLOADED = 529
NOTHING = Usage()
Edits = Mapping[str, Any]
TEXT_HEAD = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
    b'"delta":{"type":"text_delta","text":'
)
PING = b'event: ping\ndata: {"type":"ping"}\n\n'


def error(fault: GatewayError) -> dict[str, Any]:
    """Anthropic's error object. Claude Code compacts the conversation on "prompt is too long"."""
    message = fault.message
    if isinstance(fault, ContextExceeded):
        have, can = fault.extra["n_prompt_tokens"], fault.extra["n_ctx"]
        message = f"prompt is too long: {have} tokens > {can} maximum"
    kind = TYPES.get(fault.status, "api_error")
    if isinstance(fault, LimitReached):
        kind = LimitReached.type
    return {"type": "error", "error": {"type": kind, "message": message, **fault.more}}


def status(code: int, reason: str = "") -> int:
    """Anthropic's status for one of ours; with `reason` the code of a caller's limit, 429 stays."""
    limited = reason in (LimitReached.code, BudgetExceeded.code)
    overloaded = TYPES.get(code) == "overloaded_error" and not limited
    return OVERLOADED if overloaded else code


def _ending(
    request: CompletionRequest,
    finished: events.Finished,
    compacted: events.Compacted | None,
    edits: Sequence[Edits] | None,
    searched: Sequence[events.Searched],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Why the message ended, and which of the client's stop sequences ended it."""
    stop = None
    reason = REASONS[finished.reason]
    if finished.reason == "stop" and finished.stop_sequence in request.stop:
        reason, stop = "stop_sequence", finished.stop_sequence
    fields: dict[str, Any] = {"usage": usage(finished.usage)}
    if compacted is not None:
        if request.compaction is not None and request.compaction.pauses:
            reason, stop = COMPACTION, None
        fields["usage"]["iterations"] = iterations(compacted, finished.usage)
    if request.searches:
        fields["usage"]["server_tool_use"] = web_search.usage(searched)
    if edits is not None:
        fields["context_management"] = {"applied_edits": edits}
    if request.compaction is None:
        fields |= compaction_field(compacted)
    return {"stop_reason": reason, "stop_sequence": stop}, fields


def _message(meta: ResponseMeta, counts: Usage = NOTHING) -> dict[str, Any]:
    return {
        "id": meta.id,
        "type": "message",
        "role": "assistant",
        "model": meta.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage(counts),
    }


def reply(
    meta: ResponseMeta,
    request: CompletionRequest,
    completions: Sequence[Completion],
    edits: Sequence[Edits] | None = None,
) -> dict[str, Any]:
    """The whole Message. `edits` are the applied context edits, None if none were asked for."""
    (completion,) = completions
    content: list[dict[str, Any]] = []
    compacted, finished = completion.compacted, completion.finished
    searched: list[events.Searched] = []
    if compacted is not None and request.compaction is not None:
        content.append({"type": COMPACTION, "content": compacted.summary})
    for part in completion.parts:
        match part:
            case events.ReasoningDelta():
                content.append({"type": "thinking", "thinking": part.text, "signature": ""})
            case events.TextDelta(text=text) if text:
                cites = web_search.citations(text, searched)
                more = {"citations": cites} if cites else {}
                content.append({"type": "text", "text": text, **more})
            case ToolCall():
                head = {"type": "tool_use", "id": part.id, "name": part.name}
                content.append({**head, "input": as_object(part.arguments)})
            case events.ServerCall():
                content += _use(part, as_object(part.arguments)), _result(part)
            case events.Searched(kind="web"):
                call_id = web_search.call_id(meta.id, len(searched))
                searched.append(part)
                content.append(web_search.use(call_id, {"query": part.query}))
                content.append(web_search.result(call_id, part))
    end, more = _ending(request, finished, compacted, edits, searched)
    return {**_message(meta), "content": content, **end, **more}


def _event(kind: str, **fields: Any) -> bytes:
    return sse.encode({"type": kind, **fields}, kind)


def _use(made: events.ServerCall, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A block for a call, with its arguments or, in a stream, none yet."""
    return {
        "type": "mcp_tool_use",
        "id": made.id,
        "name": made.name,
        "server_name": made.label,
        "input": arguments,
    }


def _result(made: events.ServerCall) -> dict[str, Any]:
    return {
        "type": "mcp_tool_result",
        "tool_use_id": made.id,
        "is_error": bool(made.error),
        "content": [{"type": "text", "text": made.error or made.output}],
    }


class Encoder:
    """Encodes events as Anthropic's stream; a text delta is a prebuilt frame around the text."""

    content_type = "text/event-stream"

    def __init__(
        self,
        meta: ResponseMeta,
        request: CompletionRequest,
        edits: Sequence[Edits] | None = None,
    ) -> None:
        self._meta = meta
        self._edits = edits
        self._request = request
        self._begun = False
        self._index = -1
        self._open = ""  # kind of the open block; for a call, with its index
        self._head = b""
        self._searched: list[events.Searched] = []
        self._text: list[str] = []  # of the open block, if it may cite results
        self._compacted: events.Compacted | None = None

    def encode(self, choice: int, batch: events.Batch) -> bytes:
        out: list[bytes] = []
        if not self._begun:
            self._begun = True
            first = batch[0] if batch else None
            counts = Usage(first.prompt) if isinstance(first, events.Started) else NOTHING
            out.append(_event("message_start", message=_message(self._meta, counts)))
        if not batch:
            out.append(PING)
        for event in batch:
            if type(event) is TextDelta:
                if event.text:
                    if self._open != "text":
                        self._turn(out, "text", {"type": "text", "text": ""})
                        self._head = TEXT_HEAD % self._index
                    if self._searched:
                        self._text.append(event.text)
                    out.append(self._head + msgspec.json.encode(event.text) + b"}}\n\n")
            else:
                self._rare(event, out)
        return b"".join(out)

    def fail(self, fault: GatewayError) -> bytes:
        out: list[bytes] = []
        self._close(out)
        out.append(sse.encode(error(fault), "error"))
        return b"".join(out)

    def end(self) -> bytes:
        return _event("message_stop")

    def _rare(self, event: Any, out: list[bytes]) -> None:
        match event:
            case events.ReasoningDelta():
                if self._open != "thinking":
                    block = {"type": "thinking", "thinking": "", "signature": ""}
                    self._turn(out, "thinking", block)
                self._delta(out, type="thinking_delta", thinking=event.text)
            case events.ToolCallDelta():
                kind = f"call {event.index}"
                if self._open != kind:
                    head = {"type": "tool_use", "id": event.id, "name": event.name}
                    self._turn(out, kind, {**head, "input": {}})
                if event.arguments:
                    self._delta(out, type="input_json_delta", partial_json=event.arguments)
            case events.ServerCall(over=False):
                self._turn(out, "call of a server", _use(event, {}))
                self._delta(out, type="input_json_delta", partial_json=event.arguments)
                self._close(out)
            case events.ServerCall():
                self._turn(out, "result", _result(event))
                self._close(out)
            case events.Searched(kind="web", over=over):
                call_id = web_search.call_id(self._meta.id, len(self._searched))
                if over:
                    self._searched.append(event)
                    self._turn(out, "result", web_search.result(call_id, event))
                else:
                    self._turn(out, "search", web_search.use(call_id, {}))
                    query = msgspec.json.encode({"query": event.query}).decode()
                    self._delta(out, type="input_json_delta", partial_json=query)
                self._close(out)
            case events.Compacted():
                self._compacted = event.after(self._compacted)
                if self._request.compaction is not None:
                    self._turn(out, COMPACTION, {"type": COMPACTION, "content": None})
                    self._delta(out, type="compaction_delta", content=event.summary)
                    self._close(out)
            case events.Finished():
                self._close(out)
                end, more = _ending(
                    self._request, event, self._compacted, self._edits, self._searched
                )
                out.append(_event("message_delta", delta=end, **more))

    def _delta(self, out: list[bytes], **delta: Any) -> None:
        out.append(_event("content_block_delta", index=self._index, delta=delta))

    def _turn(self, out: list[bytes], kind: str, block: dict[str, Any]) -> None:
        self._close(out)
        self._index += 1
        self._open = kind
        out.append(_event("content_block_start", index=self._index, content_block=block))

    def _close(self, out: list[bytes]) -> None:
        if self._open == "thinking":
            # Clients wait for a signature before they close the block; ours is empty.
            self._delta(out, type="signature_delta", signature="")
        if self._text:
            for citation in web_search.citations("".join(self._text), self._searched):
                self._delta(out, type="citations_delta", citation=citation)
            self._text.clear()
        if self._open:
            out.append(_event("content_block_stop", index=self._index))
        self._open = ""


# The header that distinguishes Anthropic's GET /v1/models from OpenAI's.
VERSION = "anthropic-version"


def model_object(name: str, created: int, n_ctx: int) -> dict[str, Any]:
    """One model; `created` in seconds since 1970, `n_ctx` in tokens, 0 if unknown."""
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": n_ctx or None,
        "max_tokens": n_ctx or None,
    }


def models_list(models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "data": list(models),
        "has_more": False,
        "first_id": models[0]["id"] if models else None,
        "last_id": models[-1]["id"] if models else None,
    }
