"""Anthropic's server tool `web_search_20250305` and its later versions, run by the gateway.

    server_tool_use            the call, with its query
    web_search_tool_result     its results, or an error
    web_search_result_location a citation in a text block, for each [1] that the model wrote

Clients send the blocks back. `encrypted_content` has what the model reads of a result, in base64:
so the next turn's prompt begins with that of the last one. That of Anthropic cannot be read.
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ...core.events import NONE_FOUND, Citation, Searched, passages
from ...core.request import Message, Search
from ...errors import InvalidParameter
from .. import fields
from ..fields import Body
from ..responses.answer import cited

TOOL, NAME = "web_search_", "web_search"
USE, RESULT, FAILURE = "server_tool_use", "web_search_tool_result", "web_search_tool_result_error"
MOST_SITES, LONGEST_SITE = 64, 1000  # sites of a list, and characters of each
LONGEST_CITED = 150  # characters, as in Anthropic's answers
_SITE = re.compile(r"(?:[\w-]+\.)*[\w-]+(?:/[!-)+-~]*(?:\*[!-)+-~]*)?)?", re.ASCII)
_KNOWN = frozenset("type name max_uses allowed_domains blocked_domains strict".split())


def parse(tool: Body, at: str, warnings: list[str]) -> Search:
    """A tool of this type. Raises InvalidParameter."""
    fields.choice(tool, "name", (NAME,), NAME, at)
    warnings += fields.ignored_fields(tool, _KNOWN, at)
    allowed, blocked = _sites(tool, "allowed_domains", at), _sites(tool, "blocked_domains", at)
    if allowed and blocked:
        raise InvalidParameter(at + "blocked_domains", "cannot be used with allowed_domains")
    most = fields.integer(tool, "max_uses", 1, fields.MAX_ITEMS, at)
    return Search(kind="web", sites=allowed, blocked=blocked, most=most)


def _sites(tool: Body, name: str, at: str) -> tuple[str, ...]:
    sites = fields.strings(tool, name, at, MOST_SITES)
    for site in sites:
        if len(site) > LONGEST_SITE or not _SITE.fullmatch(site):
            raise InvalidParameter(
                at + name, "must be domains such as example.com or example.com/blog, without https"
            )
    return sites


def call_id(message_id: str, number: int) -> str:
    return f"srvtoolu_{message_id.partition('_')[2]}{number:02x}"


def usage(searched: Sequence[Searched]) -> dict[str, int]:
    made = sum(bool(search.query and not search.error) for search in searched)
    return {"web_search_requests": made, "web_fetch_requests": 0}


def use(call_id: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The block of a call, with its input or, in a stream, none yet."""
    return {"type": USE, "id": call_id, "name": NAME, "input": arguments}


def result(call_id: str, made: Searched) -> dict[str, Any]:
    content: Any = [
        {
            "type": "web_search_result",
            "title": page.title,
            "url": page.url,
            "encrypted_content": _sealed(page),
            "page_age": None,
        }
        for page in made.found
    ]
    error = made.error if made.query else "invalid_tool_input"
    if error:
        content = {"type": FAILURE, "error_code": error}
    return {"type": RESULT, "tool_use_id": call_id, "content": content}


def citations(text: str, searched: Sequence[Searched]) -> list[dict[str, Any]]:
    """The citations in a text, of the results of the searches before it, each once."""
    pages = {page.url: page for search in searched for page in search.found}
    marks = cited(text, list(pages.values()))
    return [
        {
            "type": "web_search_result_location",
            "url": url,
            "title": pages[url].title,
            "cited_text": pages[url].text[:LONGEST_CITED],
            "encrypted_index": "",
        }
        for url in dict.fromkeys(mark["url"] for mark in marks)
    ]


def message(block: Body, at: str) -> Message:
    """What the model reads of a result that a client sends back."""
    content = block.get("content")
    if isinstance(content, dict):
        text = f"Error: {fields.text(content, 'error_code', at=at + 'content.')}"
    else:
        pages = [_opened(page, path) for page, path in fields.objects(block, "content", at)]
        text = passages(pages) or NONE_FOUND
    call_id = fields.filled(block, "tool_use_id", at)
    return Message(role="tool", content=text, tool_call_id=call_id)


def _sealed(page: Citation) -> str:
    return base64.b64encode(msgspec.json.encode((page.number, page.text))).decode()


def _opened(page: Body, at: str) -> Citation:
    url = fields.text(page, "url", at=at)
    number, text = 0, url
    with contextlib.suppress(ValueError, msgspec.MsgspecError):
        data = base64.b64decode(fields.text(page, "encrypted_content", at=at), validate=True)
        number, text = msgspec.json.decode(data, type=tuple[int, str])
    return Citation(number=number, title=fields.text(page, "title", at=at), text=text, url=url)
