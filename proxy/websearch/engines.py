"""Engines that are asked over HTTP: what is sent, and what their answer says. Pure.

Sources: SearXNG's search API (docs.searxng.org/dev/search_api), the reference pages of Brave's and
Tavily's web search. An answer is a stranger's: only texts are taken of it, and only
addresses of http and https.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

import msgspec

from ..errors import UpstreamFault
from .passages import unescaped
from .values import Request, Result

LONGEST = 4000  # characters of a snippet
_TAG = re.compile(r"<[^<>]{1,200}>")


class Engine(Protocol):
    name: str

    def request(self, query: str, count: int) -> Request: ...

    @classmethod
    def read(cls, status: int, data: bytes) -> list[Result]:
        """Raises UpstreamFault for an answer that is none."""


class SearXNG:
    """An instance of one's own; it must allow the format json (settings.yml: search.formats)."""

    name = "searxng"

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def request(self, query: str, count: int) -> Request:
        sent = urlencode({"q": query, "format": "json"})
        return Request(f"{self._url}/search?{sent}", {"Accept": "application/json"})

    @classmethod
    def read(cls, status: int, data: bytes) -> list[Result]:
        if status == 403:
            raise UpstreamFault("the SearXNG server does not allow the format json")
        return _results(_object(cls.name, status, data).get("results"), "title", "url", "content")


class Brave:
    name = "brave"

    def __init__(self, key: str, url: str = "https://api.search.brave.com") -> None:
        self._key, self._url = key, url

    def request(self, query: str, count: int) -> Request:
        sent = urlencode({"q": query[:400], "count": min(count, 20)})
        headers = {"Accept": "application/json", "X-Subscription-Token": self._key}
        return Request(f"{self._url}/res/v1/web/search?{sent}", headers)

    @classmethod
    def read(cls, status: int, data: bytes) -> list[Result]:
        web = _object(cls.name, status, data).get("web")
        found = web.get("results") if isinstance(web, dict) else None
        return _results(found, "title", "url", "description")


class Tavily:
    name = "tavily"

    def __init__(self, key: str, url: str = "https://api.tavily.com") -> None:
        self._key, self._url = key, url

    def request(self, query: str, count: int) -> Request:
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        body = msgspec.json.encode({"query": query[:400], "max_results": min(count, 20)})
        return Request(f"{self._url}/search", headers, body)

    @classmethod
    def read(cls, status: int, data: bytes) -> list[Result]:
        return _results(_object(cls.name, status, data).get("results"), "title", "url", "content")


KINDS: dict[str, type[Engine]] = {kind.name: kind for kind in (SearXNG, Brave, Tavily)}


def read(name: str, status: int, data: bytes) -> list[Result]:
    """What the engine of this name says. Raises UpstreamFault for an answer that is none."""
    return KINDS[name].read(status, data)


def from_library(values: Any) -> list[Result]:
    """What the library ddgs gives."""
    return _results(values, "title", "href", "body")


def _object(name: str, status: int, data: bytes) -> Mapping[str, Any]:
    if status in (401, 403):
        raise UpstreamFault(f"the search engine {name} refuses our key")
    if status == 429:
        raise UpstreamFault(f"the search engine {name} says that it was asked too often")
    if status != 200:
        raise UpstreamFault(f"the search engine {name} answered with status {status}")
    try:
        value = msgspec.json.decode(data)
    except msgspec.DecodeError:
        value = None
    if not isinstance(value, dict):
        raise UpstreamFault(f"the search engine {name} gave no JSON object")
    return value


def _results(values: Any, title: str, url: str, snippet: str) -> list[Result]:
    """Those that are whole, each address once."""
    found: dict[str, Result] = {}
    for value in values if isinstance(values, Iterable) else ():
        if not isinstance(value, dict):
            continue
        texts = [value.get(name) for name in (title, url, snippet)]
        name, address, said = (text if isinstance(text, str) else "" for text in texts)
        if is_web(address) and address not in found:
            found[address] = Result(_plain(name) or address, address, _plain(said))
    return list(found.values())


def is_web(address: str) -> bool:
    """Whether it is an address of a page, that can stand in an answer as it is."""
    if len(address) > 2000 or not re.fullmatch(r"[!-~\u0080-\U0010ffff]+", address):
        return False
    try:
        parts = urlsplit(address)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def _plain(text: str) -> str:
    """Text without the marks engines put around words that fit."""
    return " ".join(unescaped(_TAG.sub("", text[: 4 * LONGEST])).split())[:LONGEST]
