"""Builds the Response object and its output items."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ...core.decoding import decoded
from ...core.events import (
    ApprovalRequested,
    Compacted,
    Finished,
    Found,
    Searched,
    ServerCall,
    Step,
    TokenLogprob,
    ToolsListed,
)
from ...core.fold import Completion, Part, Said, Thought
from ...core.request import ToolCall
from ...core.usage import Usage
from ...errors import GatewayError, InvalidParameter, UpstreamFault
from .. import schema_fields as doc
from ..fields import Body, model_name
from ..openai import answer as openai
from ..openai.answer import SESSION
from ..response_meta import ResponseMeta, compaction_field
from ..schema_fields import Fields
from .items import listed, sealed
from .mcp import approval_item, call_item, listed_item
from .request import INPUT, RESULTS, SOURCES, ParsedRequest

Item = dict[str, Any]

ID = 32  # length of a response's id after the prefix
_CITED = re.compile(r"[\[【](\d{1,4}(?:\s*[,，]\s*\d{1,4}){0,8})[\]】]")


def response(
    meta: ResponseMeta, asked: ParsedRequest, status: str, output: Sequence[Item] = ()
) -> Item:
    """A Response with this status; `ended` and `failed` build the final ones."""
    return {
        "id": meta.id,
        "object": "response",
        "created_at": meta.created,
        "completed_at": None,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "model": meta.model,
        "output": list(output),
        "usage": None,
        **asked.repeated,
    }


def ended(
    meta: ResponseMeta,
    asked: ParsedRequest,
    output: Sequence[Item],
    finished: Finished,
    told: Compacted | None = None,
) -> Item:
    """A completed or incomplete Response. `told`: its conversation was compacted."""
    cut = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(finished.reason)
    if asked.warms:
        cut = None
    whole = response(meta, asked, "incomplete" if cut else "completed", output)
    whole["usage"] = usage(finished.usage)
    whole.update(compaction_field(told))
    if cut:
        whole["incomplete_details"] = {"reason": cut}
    else:
        whole["completed_at"] = round(meta.created + meta.elapsed())
    return whole


def failed(
    meta: ResponseMeta, asked: ParsedRequest, output: Sequence[Item], fault: GatewayError
) -> Item:
    """A failed Response."""
    broken = response(meta, asked, "failed", output)
    code = "rate_limit_exceeded" if fault.status == 429 else "server_error"
    broken["error"] = {"code": code, "message": fault.message}
    return broken


def usage(counts: Usage) -> Item:
    return {
        "input_tokens": counts.prompt,
        "input_tokens_details": {"cached_tokens": counts.cached, "cache_write_tokens": 0},
        "output_tokens": counts.completion,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning},
        "total_tokens": counts.total,
    }


def item_id(meta: ResponseMeta, kind: str, index: int) -> str:
    """The id of the output item at `index`; the same in a stream and in the whole answer."""
    return f"{kind}_{meta.id.partition('_')[2]}{index:02x}"


def response_id(item: str) -> str:
    """The id of the response that an output or input item belongs to."""
    return "resp_" + item.partition("_")[2][:ID]


def reasoning(meta: ResponseMeta, index: int, thought: str, status: str = "completed") -> Item:
    return {
        "id": item_id(meta, "rs", index),
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": thought}] if thought else [],
        "status": status,
    }


def text_part(
    content: str, tokens: Sequence[TokenLogprob] = (), found: Sequence[Found] = ()
) -> Item:
    return {
        "type": "output_text",
        "text": content,
        "annotations": cited(content, found),
        "logprobs": [openai.token(logprob) for logprob in tokens],
    }


def cited(content: str, found: Sequence[Found]) -> list[Item]:
    """Annotations for each bracketed number in the text that refers to a search result."""
    known = {str(result.number): result for result in found}
    out: list[Item] = []
    for mark in _CITED.finditer(content):
        for number in mark.group(1).replace("，", ",").split(","):
            result = known.get(number.strip())
            if result is None:
                continue
            if result.url:
                start, end = mark.span()
                place: Item = {"start_index": start, "end_index": end}
                out.append(
                    {"type": "url_citation", **place, "url": result.url, "title": result.title}
                )
            else:
                place = {"index": mark.start(), "file_id": result.file_id}
                out.append({"type": "file_citation", **place, "filename": result.title})
    return out


def search(
    meta: ResponseMeta,
    asked: ParsedRequest,
    index: int,
    searched: Searched,
    status: str = "completed",
) -> Item:
    """An item for a search made by the gateway; its results are included on request."""
    if searched.kind == "web":
        action: Item = {"type": "search", "query": searched.query, "queries": [searched.query]}
        if SOURCES in asked.include:
            action["sources"] = [{"type": "url", "url": result.url} for result in searched.found]
        head = {"id": item_id(meta, "ws", index), "type": "web_search_call"}
        return {**head, "status": status, "action": action}
    results = [
        {
            "file_id": result.file_id,
            "filename": result.title,
            "score": result.score,
            "text": result.text,
            "attributes": {},
        }
        for result in searched.found
    ]
    included = RESULTS in asked.include and searched.over
    return {
        "id": item_id(meta, "fs", index),
        "type": "file_search_call",
        "status": status,
        "queries": [searched.query],
        "results": results if included else None,
    }


def step(meta: ResponseMeta, asked: ParsedRequest, index: int, made: Step) -> Item:
    """An item for what the gateway did."""
    match made:
        case ToolsListed():
            return listed_item(item_id(meta, "mcpl", index), made)
        case ServerCall():
            return call_item(item_id(meta, "mcp", index), made)
        case ApprovalRequested():
            return approval_item(item_id(meta, "mcpr", index), made)
        case _:
            status = "failed" if made.failed else "completed"
            return search(meta, asked, index, made, status)


def message(
    meta: ResponseMeta, index: int, parts: Sequence[Item], status: str = "completed"
) -> Item:
    return {
        "id": item_id(meta, "msg", index),
        "type": "message",
        "role": "assistant",
        "content": list(parts),
        "status": status,
    }


def call(
    meta: ResponseMeta,
    asked: ParsedRequest,
    index: int,
    tool_call: ToolCall,
    status: str = "completed",
) -> Item:
    """A function call or a custom tool call; the latter's only argument is its `input`."""
    if tool_call.name in asked.custom:
        prefix, kind = "ctc", "custom_tool_call"
        given = {"input": written(tool_call.arguments)}
    else:
        prefix, kind = "fc", "function_call"
        given = {"arguments": tool_call.arguments}
    return {
        "id": item_id(meta, prefix, index),
        "type": kind,
        "call_id": tool_call.id,
        "name": tool_call.name,
        **given,
        "status": status,
    }


def written(arguments: str) -> str:
    """The input of a custom tool. Arguments that were cut off are not JSON and are returned as they
    are."""
    try:
        value = decoded(arguments)
    except ValueError:
        return arguments
    content = value.get("input") if isinstance(value, dict) else None
    return content if isinstance(content, str) else arguments


def whole(meta: ResponseMeta, asked: ParsedRequest, completions: Sequence[Completion]) -> Item:
    """The Response of a completion, as its stream ends."""
    (completion,) = completions
    parts: Sequence[Part] = completion.parts or (() if asked.warms else (Said(""),))
    output: list[Item] = []
    found: list[Found] = []
    for number, part in enumerate(parts, 1):
        cut = number == len(parts) and completion.finished.reason == "length"
        status = "incomplete" if cut else "completed"
        match part:
            case Thought():
                item = reasoning(meta, len(output), part.text, status)
            case Said():
                said = text_part(part.text, part.logprobs, found)
                item = message(meta, len(output), [said], status)
            case ToolCall():
                item = call(meta, asked, len(output), part, status)
            case _:
                item = step(meta, asked, len(output), part)
                if isinstance(part, Searched):
                    found += part.found
        output.append(item)
    return ended(meta, asked, output, completion.finished, completion.compacted)


# Compaction, POST /v1/responses/compact: the model sums a conversation up. The output is to be
# sent as the beginning of the next input: messages with instructions as they were, then one
# `compaction` item in place of all others.
KEPT_ROLES = ("system", "developer")
COMPACT_FIELDS: Fields = {
    "model": doc.MODEL,
    "input": INPUT,
    "instructions": doc.text("A system message of the conversation."),
    "previous_response_id": doc.text("The stored response whose conversation is compacted.", ""),
    "prompt_cache_key": SESSION,
}


def compact_body(given: Body) -> Body:
    """The body of an ordinary request for the same conversation. Raises InvalidParameter."""
    if not model_name(given):
        raise InvalidParameter("model", "is missing")
    fields = {name: value for name in COMPACT_FIELDS if (value := given.get(name)) is not None}
    return {**fields, "store": False, "truncation": "auto"}


def compacted(
    meta: ResponseMeta, asked: ParsedRequest, completions: Sequence[Completion]
) -> dict[str, Any]:
    """The compaction object. Raises UpstreamFault if the model wrote nothing."""
    (completion,) = completions
    text = completion.text.strip()
    if not text:
        raise UpstreamFault("the model wrote no summary: try again, or use another model")
    kept = [item for item in asked.input if item.get("role") in KEPT_ROLES]
    item = {
        "id": item_id(meta, "cmp", len(kept)),
        "type": "compaction",
        "encrypted_content": sealed(text),
    }
    return {
        "id": meta.id,
        "object": "response.compaction",
        "created_at": meta.created,
        "output": [*listed(kept, meta.id), item],
        "usage": usage(completion.finished.usage),
    }
