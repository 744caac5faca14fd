"""The Response object and its output items."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ...core.decoding import decoded
from ...core.events import Finished, Found, Searched, TokenLogprob
from ...core.fold import Completion
from ...core.request import ToolCall
from ...core.usage import Usage
from ...errors import GatewayError
from .. import openai
from ..stamp import Stamp
from .request import RESULTS, SOURCES, Asked

Item = dict[str, Any]

ID = 32  # the length of an answer's own part of its id
_CITED = re.compile(r"[\[【](\d{1,4}(?:\s*[,，]\s*\d{1,4}){0,8})[\]】]")


def response(stamp: Stamp, asked: Asked, status: str, output: Sequence[Item] = ()) -> Item:
    """A Response in this state; `completed`, `incomplete` and `failed` are set by the functions
    below."""
    return {
        "id": stamp.id,
        "object": "response",
        "created_at": stamp.created,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "model": stamp.model,
        "output": list(output),
        "usage": None,
        **asked.repeated,
    }


def ended(stamp: Stamp, asked: Asked, output: Sequence[Item], finished: Finished) -> Item:
    """A Response that is whole, or was cut."""
    cut = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(finished.reason)
    whole = response(stamp, asked, "incomplete" if cut else "completed", output)
    whole["usage"] = usage(finished.usage)
    if cut:
        whole["incomplete_details"] = {"reason": cut}
    else:
        whole["completed_at"] = round(stamp.created + stamp.elapsed())
    return whole


def failed(stamp: Stamp, asked: Asked, output: Sequence[Item], fault: GatewayError) -> Item:
    """A Response that broke off."""
    broken = response(stamp, asked, "failed", output)
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


def item_id(stamp: Stamp, kind: str, index: int) -> str:
    """The id of the item at a place of this answer: the same in the stream and in the whole."""
    return f"{kind}_{stamp.id.partition('_')[2]}{index:02x}"


def response_id(item: str) -> str:
    """The id of the answer that an item of this id is of, or was the input of."""
    return "resp_" + item.partition("_")[2][:ID]


def reasoning(stamp: Stamp, index: int, thought: str, status: str = "completed") -> Item:
    return {
        "id": item_id(stamp, "rs", index),
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": thought}] if thought else [],
        "status": status,
    }


def text_part(said: str, tokens: Sequence[TokenLogprob] = (), found: Sequence[Found] = ()) -> Item:
    return {
        "type": "output_text",
        "text": said,
        "annotations": cited(said, found),
        "logprobs": [openai.token(one) for one in tokens],
    }


def cited(said: str, found: Sequence[Found]) -> list[Item]:
    """Where the text names, in brackets, the number of something that was found."""
    known = {str(one.number): one for one in found}
    out: list[Item] = []
    for mark in _CITED.finditer(said):
        for number in mark.group(1).replace("，", ",").split(","):
            one = known.get(number.strip())
            if one is None:
                continue
            if one.url:
                start, end = mark.span()
                place: Item = {"start_index": start, "end_index": end}
                out.append({"type": "url_citation", **place, "url": one.url, "title": one.title})
            else:
                place = {"index": mark.start(), "file_id": one.file_id}
                out.append({"type": "file_citation", **place, "filename": one.title})
    return out


def search(
    stamp: Stamp, asked: Asked, index: int, one: Searched, status: str = "completed"
) -> Item:
    """A search that was made here. What it found is told where it is asked for."""
    if one.kind == "web":
        action: Item = {"type": "search", "query": one.query, "queries": [one.query]}
        if SOURCES in asked.include:
            action["sources"] = [{"type": "url", "url": result.url} for result in one.found]
        head = {"id": item_id(stamp, "ws", index), "type": "web_search_call"}
        return {**head, "status": status, "action": action}
    results = [
        {
            "file_id": result.file_id,
            "filename": result.title,
            "score": result.score,
            "text": result.text,
            "attributes": {},
        }
        for result in one.found
    ]
    told = RESULTS in asked.include and one.over
    return {
        "id": item_id(stamp, "fs", index),
        "type": "file_search_call",
        "status": status,
        "queries": [one.query],
        "results": results if told else None,
    }


def message(stamp: Stamp, index: int, parts: Sequence[Item], status: str = "completed") -> Item:
    return {
        "id": item_id(stamp, "msg", index),
        "type": "message",
        "role": "assistant",
        "content": list(parts),
        "status": status,
    }


def call(stamp: Stamp, asked: Asked, index: int, one: ToolCall, status: str = "completed") -> Item:
    """A function call, or one of a custom tool: then its one argument is the input."""
    if one.name in asked.custom:
        return {
            "id": item_id(stamp, "ctc", index),
            "type": "custom_tool_call",
            "call_id": one.id,
            "name": one.name,
            "input": written(one.arguments),
            "status": status,
        }
    return {
        "id": item_id(stamp, "fc", index),
        "type": "function_call",
        "call_id": one.id,
        "name": one.name,
        "arguments": one.arguments,
        "status": status,
    }


def written(arguments: str) -> str:
    """What a custom tool is given. Arguments that were cut are no JSON: then they are it."""
    try:
        value = decoded(arguments)
    except ValueError:
        return arguments
    found = value.get("input") if isinstance(value, dict) else None
    return found if isinstance(found, str) else arguments


def whole(stamp: Stamp, asked: Asked, completions: Sequence[Completion]) -> Item:
    """The Response of a completion."""
    (one,) = completions
    status = "incomplete" if one.finished.reason == "length" else "completed"
    output: list[Item] = []
    if one.reasoning:
        output.append(reasoning(stamp, 0, one.reasoning))
    found: list[Found] = []
    for made in one.searches:
        output.append(
            search(stamp, asked, len(output), made, "failed" if made.failed else "completed")
        )
        found += made.found
    if one.text or not one.tool_calls:
        parts = [text_part(one.text, one.logprobs, found)]
        output.append(message(stamp, len(output), parts, status))
    for called in one.tool_calls:
        output.append(call(stamp, asked, len(output), called, status))
    return ended(stamp, asked, output, one.finished)
