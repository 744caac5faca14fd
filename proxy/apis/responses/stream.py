"""Encodes events as the Responses stream: typed events with sequence numbers.

    response.created response.in_progress
    (output_item.added … deltas … output_item.done)*
    response.completed | response.incomplete | response.failed

Only one item is open at a time, and the open item is closed before the end. The input of a custom
tool is sent once it is complete: until then it is the inside of a JSON string.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ...core.events import (
    ApprovalRequested,
    Batch,
    Compacted,
    Finished,
    Found,
    Progress,
    ReasoningDelta,
    Searched,
    ServerCall,
    TextDelta,
    TokenDetail,
    TokenLogprob,
    ToolCallDelta,
    ToolsListed,
)
from ...core.request import ToolCall
from ...errors import GatewayError
from ...wire import sse
from ..openai.answer import extended, reported, timings, token
from ..response_meta import ResponseMeta
from . import answer
from .request import ParsedRequest

Item = dict[str, Any]


class Encoder:
    """Encodes events as the Responses stream; `keep` receives the final Response."""

    content_type = "text/event-stream"

    def __init__(
        self, meta: ResponseMeta, asked: ParsedRequest, keep: Callable[[Item], None]
    ) -> None:
        self._meta = meta
        self._asked = asked
        self._keep = keep
        self._number = 0
        self._output: list[Item] = []
        self._open = ""  # text, reasoning, or "call" with its index
        self._pieces: list[str] = []
        self._tokens: list[TokenLogprob] = []
        self._found: list[Found] = []
        self._call = ToolCall("", "", "")
        self._begun_step: Item | None = None
        self._begun = False
        self._compacted: Compacted | None = None

    def encode(self, choice: int, batch: Batch) -> bytes:
        """The bytes of one batch; an empty batch adds an SSE comment."""
        out: list[bytes] = []
        if not self._begun:
            self._begin(out)
        if not batch:
            out.append(sse.HEARTBEAT)
        for event in batch:
            match event:
                case TextDelta():
                    if event.text or event.logprobs:
                        self._text(event, out)
                case ReasoningDelta():
                    self._thought(event.text, out)
                case ToolCallDelta():
                    self._call_delta(event, out)
                case Searched():
                    self._searched(event, out)
                case ToolsListed():
                    self._listed(event, out)
                case ServerCall():
                    self._server_call(event, out)
                case ApprovalRequested():
                    self._close(out)
                    item = answer.step(self._meta, self._asked, self._index, event)
                    self._item_added(out, item)
                    self._item_done(out, item)
                case Progress():
                    begun = answer.response(self._meta, self._asked, "in_progress")
                    self._event(out, "response.in_progress", response=begun, **reported(event))
                case TokenDetail():
                    if out:
                        out[-1] = extended(out[-1], reported(event))
                case Compacted():
                    self._compacted = event.after(self._compacted)
                case Finished():
                    self._finish(event, out)
        return b"".join(out)

    def fail(self, fault: GatewayError) -> bytes:
        """Closes the open item and sends the failure as the last event."""
        out: list[bytes] = []
        if not self._begun:
            self._begin(out)
        self._close(out, "incomplete")
        if self._begun_step is not None:  # a search, or a call of a server's tool
            self._item_done(out, {**self._begun_step, "status": "failed"})
        broken = answer.failed(self._meta, self._asked, self._output, fault)
        self._keep(broken)
        self._event(out, "response.failed", response=broken)
        return b"".join(out)

    def end(self) -> bytes:
        return b""

    def _begin(self, out: list[bytes]) -> None:
        self._begun = True
        begun = answer.response(self._meta, self._asked, "in_progress")
        self._event(out, "response.created", response=begun)
        self._event(out, "response.in_progress", response=begun)

    def _finish(self, finished: Finished, out: list[bytes]) -> None:
        if not self._open and not self._output and not self._asked.warms:
            self._open_text(out)  # an answer has at least an empty message
        self._close(out, "incomplete" if finished.reason == "length" else "completed")
        ended = answer.ended(self._meta, self._asked, self._output, finished, self._compacted)
        self._keep(ended)
        more = {}
        if self._asked.request.report.timings:
            more["timings"] = timings(finished.timings)
        self._event(out, f"response.{ended['status']}", response=ended, **more)

    # parts

    def _text(self, event: TextDelta, out: list[bytes]) -> None:
        if self._open != "text":
            self._close(out)
            self._open_text(out)
        self._pieces.append(event.text)
        self._tokens += event.logprobs
        self._part_event(
            out,
            "response.output_text.delta",
            delta=event.text,
            logprobs=[token(one) for one in event.logprobs],
        )

    def _open_text(self, out: list[bytes]) -> None:
        self._open = "text"
        self._item_added(out, answer.message(self._meta, self._index, (), "in_progress"))
        self._part_event(out, "response.content_part.added", part=answer.text_part(""))

    def _thought(self, text: str, out: list[bytes]) -> None:
        if self._open != "reasoning":
            self._close(out)
            self._open = "reasoning"
            self._item_added(out, answer.reasoning(self._meta, self._index, "", "in_progress"))
            part = {"type": "reasoning_text", "text": ""}
            self._part_event(out, "response.content_part.added", part=part)
        self._pieces.append(text)
        self._part_event(out, "response.reasoning_text.delta", delta=text)

    def _searched(self, event: Searched, out: list[bytes]) -> None:
        kind = f"response.{event.kind}_search_call"
        if not event.over:
            self._close(out)
            item = answer.search(self._meta, self._asked, self._index, event, "in_progress")
            self._item_added(out, item)
            self._begun_step = item
            self._item_event(out, kind + ".in_progress")
            self._item_event(out, kind + ".searching")
            return
        self._found += event.found
        self._item_event(out, kind + ".completed")
        self._item_done(out, answer.step(self._meta, self._asked, self._index, event))

    def _listed(self, event: ToolsListed, out: list[bytes]) -> None:
        self._close(out)
        item = answer.step(self._meta, self._asked, self._index, event)
        self._item_added(out, {**item, "tools": [], "error": None})
        kind = "response.mcp_list_tools"
        self._item_event(out, kind + ".in_progress")
        self._item_event(out, kind + (".failed" if event.error else ".completed"))
        self._item_done(out, item)

    def _server_call(self, event: ServerCall, out: list[bytes]) -> None:
        kind = "response.mcp_call"
        if not event.over:
            self._close(out)
            item = answer.step(self._meta, self._asked, self._index, event)
            self._item_added(out, {**item, "arguments": ""})
            self._begun_step = item
            self._item_event(out, kind + ".in_progress")
            self._item_event(out, kind + "_arguments.delta", delta=event.arguments)
            self._item_event(out, kind + "_arguments.done", arguments=event.arguments)
            return
        item = answer.step(self._meta, self._asked, self._index, event)
        self._item_event(out, f"{kind}.{item['status']}")
        self._item_done(out, item)

    def _call_delta(self, event: ToolCallDelta, out: list[bytes]) -> None:
        kind = f"call {event.index}"
        if self._open != kind:
            self._close(out)
            self._open = kind
            self._call = ToolCall(event.id, event.name, "")
            self._item_added(out, self._call_item("in_progress"))
        if event.arguments:
            self._pieces.append(event.arguments)
            if self._call.name not in self._asked.custom:
                self._item_event(
                    out, "response.function_call_arguments.delta", delta=event.arguments
                )

    def _call_item(self, status: str) -> Item:
        return answer.call(self._meta, self._asked, self._index, self._call, status)

    def _close(self, out: list[bytes], status: str = "completed") -> None:
        """Closes the open item, if any."""
        if not self._open:
            return
        text = "".join(self._pieces)
        if self._open == "text":
            part = answer.text_part(text, self._tokens, self._found)
            for place, annotation in enumerate(part["annotations"]):
                self._part_event(
                    out,
                    "response.output_text.annotation.added",
                    annotation_index=place,
                    annotation=annotation,
                )
            self._part_event(out, "response.output_text.done", text=text, logprobs=part["logprobs"])
            self._part_event(out, "response.content_part.done", part=part)
            item = answer.message(self._meta, self._index, (part,), status)
        elif self._open == "reasoning":
            self._part_event(out, "response.reasoning_text.done", text=text)
            part = {"type": "reasoning_text", "text": text}
            self._part_event(out, "response.content_part.done", part=part)
            item = answer.reasoning(self._meta, self._index, text, status)
        else:
            self._call = ToolCall(self._call.id, self._call.name, text)
            item = self._call_item(status)
            if item["type"] == "custom_tool_call":
                kind, said = "response.custom_tool_call_input", item["input"]
                self._item_event(out, kind + ".delta", delta=said)
                self._item_event(out, kind + ".done", input=said)
            else:
                self._item_event(
                    out,
                    "response.function_call_arguments.done",
                    name=item["name"],
                    arguments=text,
                )
        self._item_done(out, item)
        self._open, self._pieces, self._tokens = "", [], []

    # events

    @property
    def _index(self) -> int:
        """The index of the open item, or of the next one."""
        return len(self._output)

    def _event(self, out: list[bytes], kind: str, **fields: Any) -> None:
        body = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        out.append(sse.encode(msgspec.json.encode(body), kind))

    def _item_added(self, out: list[bytes], item: Item) -> None:
        self._id = item["id"]
        self._event(out, "response.output_item.added", output_index=self._index, item=item)

    def _item_done(self, out: list[bytes], item: Item) -> None:
        self._event(out, "response.output_item.done", output_index=self._index, item=item)
        self._output.append(item)
        self._begun_step = None

    def _item_event(self, out: list[bytes], kind: str, **fields: Any) -> None:
        self._event(out, kind, item_id=self._id, output_index=self._index, **fields)

    def _part_event(self, out: list[bytes], kind: str, **fields: Any) -> None:
        self._item_event(out, kind, content_index=0, **fields)
