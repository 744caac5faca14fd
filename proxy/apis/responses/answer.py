"""The Response object and its output items, whole or as a stream of events with sequence numbers.

    response.created response.in_progress
    (output_item.added … deltas … output_item.done)*
    response.completed | response.incomplete | response.failed

Only one item is open at a time, and the open item is closed before the end. The input of a custom
tool is sent once it is complete: until then it is the inside of a JSON string.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ...core import events
from ...core.decoding import decoded
from ...core.fold import Completion
from ...core.request import ToolCall
from ...core.usage import Usage
from ...errors import GatewayError, InvalidParameter, UpstreamFault
from ...wire import sse
from .. import schema_fields as doc
from ..fields import Body, model_name
from ..openai.answer import SESSION, extended, reported, timings, token
from ..response_meta import ResponseMeta, compaction_field
from ..schema_fields import Fields
from .items import encode_summary, listed
from .request import INPUT, RESULTS, SOURCES, ParsedRequest

Item = dict[str, Any]

ID = 32  # length of a response's id after the prefix
_CITED = re.compile(r"[\[【](\d{1,4}(?:\s*[,，]\s*\d{1,4}){0,8})[\]】]")


def usage(counts: Usage) -> Item:
    return {
        "input_tokens": counts.prompt,
        "input_tokens_details": {"cached_tokens": counts.cached, "cache_write_tokens": 0},
        "output_tokens": counts.completion,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning},
        "total_tokens": counts.total,
    }


def response_id(item: str) -> str:
    """The id of the response that an output or input item belongs to."""
    return "resp_" + item.partition("_")[2][:ID]


class Writer:
    """One Response. An item's id is the same in a stream and in the whole answer."""

    def __init__(self, meta: ResponseMeta, parsed: ParsedRequest) -> None:
        self._meta = meta
        self._parsed = parsed
        self._output: list[Item] = []
        self._found: list[events.Citation] = []

    def response(self, status: str) -> Item:
        """With this status; `ended` and `failed` build the final ones."""
        return {
            "id": self._meta.id,
            "object": "response",
            "created_at": self._meta.created,
            "completed_at": None,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": self._meta.model,
            "output": list(self._output),
            "usage": None,
            **self._parsed.repeated,
        }

    def ended(self, finished: events.Finished, compacted: events.Compacted | None) -> Item:
        """A completed or incomplete Response."""
        cuts = {"length": "max_output_tokens", "content_filter": "content_filter"}
        cut = None if self._parsed.prefill_only else cuts.get(finished.reason)
        whole = self.response("incomplete" if cut else "completed")
        whole["usage"] = usage(finished.usage)
        whole.update(compaction_field(compacted))
        if cut:
            whole["incomplete_details"] = {"reason": cut}
        else:
            whole["completed_at"] = round(self._meta.created + self._meta.elapsed())
        return whole

    def failed(self, fault: GatewayError) -> Item:
        code = "rate_limit_exceeded" if fault.status == 429 else "server_error"
        return {**self.response("failed"), "error": {"code": code, "message": fault.message}}

    def item(self, prefix: str, kind: str, **fields: Any) -> Item:
        suffix = self._meta.id.partition("_")[2]
        return {"id": f"{prefix}_{suffix}{len(self._output):02x}", "type": kind, **fields}

    def _thought(self, thought: str, status: str) -> Item:
        content = [{"type": "reasoning_text", "text": thought}] if thought else []
        return self.item("rs", "reasoning", summary=[], content=content, status=status)

    def _text_part(self, content: str, tokens: Sequence[events.TokenLogprob] = ()) -> Item:
        return {
            "type": "output_text",
            "text": content,
            "annotations": cited(content, self._found),
            "logprobs": [token(logprob) for logprob in tokens],
        }

    def _message(self, parts: list[Item], status: str) -> Item:
        return self.item("msg", "message", role="assistant", content=parts, status=status)

    def _call(self, call: ToolCall, status: str) -> Item:
        """A function call or a custom tool call; the latter's only argument is its `input`."""
        head = {"call_id": call.id, "name": call.name}
        if call.name in self._parsed.custom:
            arguments = written(call.arguments)
            return self.item("ctc", "custom_tool_call", **head, input=arguments, status=status)
        arguments = call.arguments
        return self.item("fc", "function_call", **head, arguments=arguments, status=status)

    def _step(self, made: events.Step) -> Item:
        match made:
            case events.Searched():
                return self._search(made)
            case events.ToolsListed():
                tools = [
                    {
                        "name": tool.name,
                        "description": tool.description,
                        "input_schema": tool.parameters,
                        "annotations": tool.annotations or None,
                    }
                    for tool in made.tools
                ]
                fields = {"tools": tools, "error": made.error or None}
                return self.item("mcpl", "mcp_list_tools", server_label=made.label, **fields)
        call = {"server_label": made.label, "name": made.name, "arguments": made.arguments}
        if isinstance(made, events.ApprovalRequested):
            return self.item("mcpr", "mcp_approval_request", **call)
        status = "failed" if made.error else "completed"
        return self.item(
            "mcp",
            "mcp_call",
            **call,
            approval_request_id=made.approval or None,
            output=made.output if made.over and not made.error else None,
            error=_error_of(made),
            status=status if made.over else "in_progress",
        )

    def _search(self, made: events.Searched) -> Item:
        """A search made by the gateway; its results are included on request."""
        status = "in_progress" if not made.over else "failed" if made.error else "completed"
        include = self._parsed.include
        if made.kind == "web":
            action: Item = {"type": "search", "query": made.query, "queries": [made.query]}
            if SOURCES in include:
                action["sources"] = [{"type": "url", "url": result.url} for result in made.found]
            return self.item("ws", "web_search_call", status=status, action=action)
        results = [
            {
                "file_id": result.document_id,
                "filename": result.title,
                "score": result.score,
                "text": result.text,
                "attributes": {},
            }
            for result in made.found
        ]
        return self.item(
            "fs",
            "file_search_call",
            status=status,
            queries=[made.query],
            results=results if RESULTS in include and made.over else None,
        )


def whole(meta: ResponseMeta, parsed: ParsedRequest, completions: Sequence[Completion]) -> Item:
    """The Response of a completion: that at the end of its stream."""
    (completion,) = completions
    batch: events.Batch = [completion.compacted] if completion.compacted is not None else []
    for place, part in enumerate(completion.parts):
        if isinstance(part, ToolCall):
            batch.append(events.ToolCallDelta(place, part.id, part.name, part.arguments))
            continue
        if isinstance(part, events.Searched | events.ServerCall):
            batch.append(msgspec.structs.replace(part, over=False))  # it began, too
        batch.append(part)
    ended: list[Item] = []
    Encoder(meta, parsed, ended.append).encode(completion.index, [*batch, completion.finished])
    return ended[0]


def cited(content: str, results: Sequence[events.Citation]) -> list[Item]:
    """Annotations for each bracketed number in the text that refers to a search result."""
    by_number = {str(result.number): result for result in results}
    annotations: list[Item] = []
    for mark in _CITED.finditer(content) if by_number else ():
        for number in mark.group(1).replace("，", ",").split(","):
            result = by_number.get(number.strip())
            if result is None:
                continue
            if result.url:
                start, end = mark.span()
                place = {"type": "url_citation", "start_index": start, "end_index": end}
                annotations.append({**place, "url": result.url, "title": result.title})
            else:
                place = {"type": "file_citation", "index": mark.start()}
                annotations.append(
                    {**place, "file_id": result.document_id, "filename": result.title}
                )
    return annotations


def _error_of(made: events.ServerCall) -> Item | None:
    if made.code:
        return {"type": "mcp_protocol_error", "code": made.code, "message": made.error}
    content = [{"type": "text", "text": made.error}]
    return {"type": "mcp_tool_execution_error", "content": content} if made.error else None


def written(arguments: str) -> str:
    """The input of a custom tool; arguments that were cut off are returned as they are."""
    try:
        value = decoded(arguments)
    except ValueError:
        return arguments
    content = value.get("input") if isinstance(value, dict) else None
    return content if isinstance(content, str) else arguments


class Encoder(Writer):
    """Encodes events as the Responses stream; `keep` receives the final Response."""

    content_type = "text/event-stream"

    def __init__(
        self, meta: ResponseMeta, parsed: ParsedRequest, keep: Callable[[Item], None]
    ) -> None:
        super().__init__(meta, parsed)
        self._keep = keep
        self._number = 0
        self._out: list[bytes] = []  # the events of this batch
        self._open = ""  # text, reasoning, or "call" with its index
        self._pieces: list[str] = []
        self._tokens: list[events.TokenLogprob] = []
        self._begun_call = ToolCall("", "", "")
        self._begun_step: Item | None = None
        self._begun = False
        self._compacted: events.Compacted | None = None

    def encode(self, choice: int, batch: events.Batch) -> bytes:
        self._begin()
        if not batch:
            self._out.append(sse.HEARTBEAT)
        for event in batch:
            match event:
                case events.TextDelta():
                    if event.text or event.logprobs:
                        self._turn("text")
                        self._pieces.append(event.text)
                        self._tokens += event.logprobs
                        tokens = [token(logprob) for logprob in event.logprobs]
                        kind = "response.output_text.delta"
                        self._part_event(kind, delta=event.text, logprobs=tokens)
                case events.ReasoningDelta():
                    self._turn("reasoning")
                    self._pieces.append(event.text)
                    self._part_event("response.reasoning_text.delta", delta=event.text)
                case events.ToolCallDelta():
                    self._call_delta(event)
                case events.Progress():
                    begun = self.response("in_progress")
                    self._event("response.in_progress", response=begun, **reported(event))
                case events.TokenDetail():
                    if self._out:
                        self._out[-1] = extended(self._out[-1], reported(event))
                case events.Compacted():
                    self._compacted = event.after(self._compacted)
                case events.Finished():
                    self._finish(event)
                case _:
                    if isinstance(event, events.Step):
                        self._step_event(event)
        return b"".join(self._out)

    def fail(self, fault: GatewayError) -> bytes:
        self._begin()
        self._close("incomplete")
        if self._begun_step is not None:  # a search, or a call of a server's tool
            self._item_done({**self._begun_step, "status": "failed"})
        broken = self.failed(fault)
        self._keep(broken)
        self._event("response.failed", response=broken)
        return b"".join(self._out)

    def end(self) -> bytes:
        return b""

    def _begin(self) -> None:
        self._out = []
        if not self._begun:
            self._begun = True
            begun = self.response("in_progress")
            self._event("response.created", response=begun)
            self._event("response.in_progress", response=begun)

    def _finish(self, finished: events.Finished) -> None:
        if not self._open and not self._output and not self._parsed.prefill_only:
            self._turn("text")  # an answer has at least an empty message
        self._close("incomplete" if finished.reason == "length" else "completed")
        ended = self.ended(finished, self._compacted)
        self._keep(ended)
        more = {}
        if self._parsed.request.report.timings:
            more["timings"] = timings(finished.timings)
        self._event(f"response.{ended['status']}", response=ended, **more)

    def _turn(self, kind: str) -> None:
        """Opens an item of text or reasoning, if none is open."""
        if self._open == kind:
            return
        self._close()
        self._open = kind
        if kind == "text":
            item, part = self._message([], "in_progress"), self._text_part("")
        else:
            item = self._thought("", "in_progress")
            part = {"type": "reasoning_text", "text": ""}
        self._item_added(item)
        self._part_event("response.content_part.added", part=part)

    def _step_event(self, event: events.Step) -> None:
        if not (isinstance(event, events.Searched | events.ServerCall) and event.over):
            self._close()
        item = self._step(event)
        kind = f"response.{item['type']}"
        match event:
            case events.Searched(over=False):
                self._step_begins(item)
                self._item_event(kind + ".searching")
                return
            case events.ServerCall(over=False):
                self._step_begins({**item, "arguments": ""})
                self._item_event(kind + "_arguments.delta", delta=event.arguments)
                self._item_event(kind + "_arguments.done", arguments=event.arguments)
                self._begun_step = item
                return
            case events.Searched():
                self._found += event.found
                self._item_event(kind + ".completed")
            case events.ServerCall():
                self._item_event(f"{kind}.{item['status']}")
            case events.ToolsListed():
                self._step_begins({**item, "tools": [], "error": None})
                self._item_event(kind + (".failed" if event.error else ".completed"))
            case events.ApprovalRequested():
                self._item_added(item)
        self._item_done(item)

    def _step_begins(self, item: Item) -> None:
        self._item_added(item)
        self._item_event(f"response.{item['type']}.in_progress")
        self._begun_step = item

    def _call_delta(self, event: events.ToolCallDelta) -> None:
        kind = f"call {event.index}"
        if self._open != kind:
            self._close()
            self._open = kind
            self._begun_call = ToolCall(event.id, event.name, "")
            self._item_added(self._call(self._begun_call, "in_progress"))
        if event.arguments:
            self._pieces.append(event.arguments)
            if self._begun_call.name not in self._parsed.custom:
                self._item_event("response.function_call_arguments.delta", delta=event.arguments)

    def _close(self, status: str = "completed") -> None:
        if not self._open:
            return
        text = "".join(self._pieces)
        if self._open == "text":
            part = self._text_part(text, self._tokens)
            for place, annotation in enumerate(part["annotations"]):
                self._part_event(
                    "response.output_text.annotation.added",
                    annotation_index=place,
                    annotation=annotation,
                )
            self._part_event("response.output_text.done", text=text, logprobs=part["logprobs"])
            self._part_event("response.content_part.done", part=part)
            item = self._message([part], status)
        elif self._open == "reasoning":
            self._part_event("response.reasoning_text.done", text=text)
            part = {"type": "reasoning_text", "text": text}
            self._part_event("response.content_part.done", part=part)
            item = self._thought(text, status)
        else:
            item = self._call(msgspec.structs.replace(self._begun_call, arguments=text), status)
            if item["type"] == "custom_tool_call":
                kind, said = "response.custom_tool_call_input", item["input"]
                self._item_event(kind + ".delta", delta=said)
                self._item_event(kind + ".done", input=said)
            else:
                kind = "response.function_call_arguments.done"
                self._item_event(kind, name=item["name"], arguments=text)
        self._item_done(item)
        self._open, self._pieces, self._tokens = "", [], []

    def _event(self, kind: str, **fields: Any) -> None:
        body = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        self._out.append(sse.encode(body, kind))

    def _item_added(self, item: Item) -> None:
        self._id = item["id"]
        self._event("response.output_item.added", output_index=len(self._output), item=item)

    def _item_done(self, item: Item) -> None:
        self._event("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        self._begun_step = None

    def _item_event(self, kind: str, **fields: Any) -> None:
        self._event(kind, item_id=self._id, output_index=len(self._output), **fields)

    def _part_event(self, kind: str, **fields: Any) -> None:
        self._item_event(kind, content_index=0, **fields)


# Compaction, POST /v1/responses/compact: the model sums a conversation up. The output is to be
# sent as the beginning of the next input: messages with instructions as they were, then one
# `compaction` item in place of all others.
COMPACT_FIELDS: Fields = {
    "model": doc.MODEL,
    "input": INPUT,
    "instructions": doc.text("A system message of the conversation."),
    "previous_response_id": doc.text("The stored response whose conversation is compacted.", ""),
    "prompt_cache_key": SESSION,
}


def compact_body(body: Body) -> Body:
    """The body of an ordinary request for the same conversation. Raises InvalidParameter."""
    if not model_name(body):
        raise InvalidParameter("model", "is missing")
    fields = {name: value for name in COMPACT_FIELDS if (value := body.get(name)) is not None}
    return {**fields, "store": False, "truncation": "auto"}


def compacted(meta: ResponseMeta, parsed: ParsedRequest, completions: Sequence[Completion]) -> Item:
    """The compaction object. Raises UpstreamFault if the model wrote nothing."""
    (completion,) = completions
    text = completion.text.strip()
    if not text:
        raise UpstreamFault("the model wrote no summary: try again, or use another model")
    roles = ("system", "developer")
    output = listed([item for item in parsed.input if item.get("role") in roles], meta.id)
    suffix = f"{meta.id.partition('_')[2]}{len(output):02x}"
    output.append(
        {"id": f"cmp_{suffix}", "type": "compaction", "encrypted_content": encode_summary(text)}
    )
    return {
        "id": meta.id,
        "object": "response.compaction",
        "created_at": meta.created,
        "output": output,
        "usage": usage(completion.finished.usage),
    }
