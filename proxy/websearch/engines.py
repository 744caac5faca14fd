"""Web search: engines with an HTTP API, a library, and a cache of their results.

Sources: SearXNG's search API (docs.searxng.org/dev/search_api), and the API references of Brave's
and Tavily's web search. Answers are untrusted: only texts, and http and https URLs, are used.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Struct

from ..core.cache import BoundedCache, digest
from ..core.decoding import decoded_object
from ..core.events import Citation
from ..errors import BadRequest, Forbidden, Unsupported, UpstreamFault, UpstreamTimeout
from ..runtime.cancel import Cancel
from ..runtime.confinement import MEMORY, confine, limit
from ..runtime.subprocesses import Children, serve
from .fetch import EngineRequest, fetch

LONGEST = 4000  # characters of a snippet
_TAG = re.compile(r"<[^<>]{1,200}>")
_HUGE = re.compile(r"&#[0-9a-fA-FxX]{9,}")  # too large for any character

GRACE = 1.0  # extra seconds for a child to return its results
_REFUSALS = dict.fromkeys((401, 403), "rejects our API key") | {429: "is rate limiting requests"}
TOO_MANY = "too_many_requests"
URLS = {"brave": "https://api.search.brave.com", "tavily": "https://api.tavily.com"}


class Engine(Struct, frozen=True):
    """A search engine with an HTTP API: brave, tavily, or a SearXNG instance at `url`, whose
    settings.yml must allow the json format (search.formats)."""

    name: str
    url: str = ""
    key: str = ""

    def search(self, query: str, count: int, cancel: Cancel, seconds: float) -> list[Citation]:
        """Raises UpstreamFault, UpstreamTimeout, Cancelled."""
        page = fetch(self._request(query, count), seconds, cancel)
        return read(self.name, page.status, page.data)[:count]

    def close(self) -> None:
        """Nothing stays open."""

    def _request(self, query: str, count: int) -> EngineRequest:
        url = self.url.rstrip("/") or URLS[self.name]
        if self.name == "tavily":
            headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
            body = msgspec.json.encode({"query": query[:400], "max_results": min(count, 20)})
            return EngineRequest(f"{url}/search", headers, body)
        headers = {"Accept": "application/json"}
        if self.name == "brave":
            headers["X-Subscription-Token"] = self.key
            sent = urlencode({"q": query[:400], "count": min(count, 20)})
            return EngineRequest(f"{url}/res/v1/web/search?{sent}", headers)
        return EngineRequest(f"{url}/search?{urlencode({'q': query, 'format': 'json'})}", headers)


def read(name: str, status: int, data: bytes) -> list[Citation]:
    """Parses the named engine's answer. Raises UpstreamFault if it is invalid."""
    if name == "searxng" and status == 403:
        raise UpstreamFault("the SearXNG server does not allow the json format")
    if status != 200:
        why = _REFUSALS.get(status, f"responded with status {status}")
        code = TOO_MANY if status == 429 else None
        raise UpstreamFault(f"the search engine {name} {why}", code=code)
    value = decoded_object(data) if data else None
    if value is None:
        raise UpstreamFault(f"the search engine {name} did not return a JSON object")
    if name == "brave":
        web = value.get("web")
        results = web.get("results") if isinstance(web, dict) else None
        return results_of(results, "title", "url", "description")
    return results_of(value.get("results"), "title", "url", "content")


def results_of(values: Any, title: str, url: str, snippet: str) -> list[Citation]:
    """The complete results; each URL once."""
    results: dict[str, Citation] = {}
    for value in values if isinstance(values, Iterable) else ():
        if not isinstance(value, dict):
            continue
        texts = [value.get(name) for name in (title, url, snippet)]
        name, address, content = (text if isinstance(text, str) else "" for text in texts)
        if is_web(address) and address not in results:
            heading = _plain(name) or address
            results[address] = Citation(title=heading, text=_plain(content), url=address)
    return list(results.values())


def is_web(address: str) -> bool:
    """Whether it is the URL of a web page, safe to include in an answer."""
    if len(address) > 2000 or not re.fullmatch(r"[!-~\u0080-\U0010ffff]+", address):
        return False
    try:
        parts = urlsplit(address)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def _plain(text: str) -> str:
    """The text without the tags that engines put around matching words."""
    plain = _HUGE.sub("", _TAG.sub("", text[: 4 * LONGEST]))
    return " ".join(html.unescape(plain).split())[:LONGEST]


# Search with the ddgs library, which queries many engines and needs no key.
#
# Its network stack cannot cooperate with our event loop, so it runs in a child process (`python
# -P -m proxy.websearch.engines`) without access to files, which can connect over TCP to the
# ports of HTTPS and DNS only. Its addresses are not checked like those of pages.
PORTS = (53, 443)


class Metasearch:
    name = "ddgs"

    def __init__(self) -> None:
        self._children = Children(__name__)

    def search(self, query: str, count: int, cancel: Cancel, seconds: float) -> list[Citation]:
        """Raises UpstreamFault, UpstreamTimeout, Cancelled."""
        question = {"query": query, "count": count, "seconds": seconds}
        answer = self._children.ask(question, cancel, seconds + GRACE)
        if answer.get("late"):
            raise UpstreamTimeout("the search engines timed out")
        if "wrong" in answer:
            raise UpstreamFault("no search engine is reachable", detail=answer["wrong"])
        return msgspec.convert(answer["results"], list[Citation])

    def close(self) -> None:
        self._children.close()


MOST = 20
MOST_QUERY = 1000  # characters
CACHED, CACHED_SECONDS = 256, 900.0

ALIASES = {"duckduckgo": "ddgs", "searx": "searxng"}
"""Names of engines in Langchain-Chatchat's clients."""


class WebSearch:
    """The first of `engines` is the default. `seconds` limits a search. Results are cached, so that
    a conversation's earlier results stay the same."""

    def __init__(
        self, engines: Sequence[Engine | Metasearch], *, seconds: float, clock: Callable[[], float]
    ) -> None:
        self._engines = {engine.name: engine for engine in engines}
        self._seconds = seconds
        self._clock = clock
        # When it was found, and what.
        self._cached: BoundedCache[tuple[float, tuple[Citation, ...]]] = BoundedCache(CACHED)

    @property
    def longest(self) -> float:
        """Seconds after which a search is over in any case."""
        return self._seconds + 2 * GRACE

    @property
    def engines(self) -> tuple[str, ...]:
        return tuple(self._engines)

    def search(
        self, query: str, engine: str = "", count: int = 5, *, cancel: Cancel | None
    ) -> tuple[Citation, ...]:
        """The results of an engine; without `cancel` only cached ones.

        Raises Forbidden (no engine is configured), Unsupported (not this one), BadRequest,
        UpstreamFault, UpstreamTimeout, Cancelled."""
        chosen = self._engine(engine)
        query, count = " ".join(query.split())[:MOST_QUERY], max(1, min(count, MOST))
        key = digest(f"{chosen.name} {count} {query}".encode(errors="surrogatepass"))
        at, results = self._cached.get(key) or (-math.inf, ())
        if self._clock() - at <= CACHED_SECONDS:
            return results
        if cancel is None:
            return ()
        if not query:
            raise BadRequest("the search query is empty", param="query")
        results = tuple(chosen.search(query, count, cancel, self._seconds))
        self._cached.put(key, (self._clock(), results), 1)
        return results

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()

    def _engine(self, name: str) -> Engine | Metasearch:
        if not self._engines:
            raise Forbidden("web search is not configured: set --search-engine")
        if not name:
            return next(iter(self._engines.values()))
        chosen = self._engines.get(ALIASES.get(name, name))
        if chosen is None:
            raise Unsupported(
                f"the search engine {name[:40]!r} is not configured; available:"
                f" {', '.join(self._engines)}",
                param="engine",
            )
        return chosen


# in the child process


def _begin(setup: Any) -> Callable[[Any], Any]:
    from ddgs import DDGS  # the extra `knowledge`
    from ddgs.exceptions import DDGSException, TimeoutException

    def answer(question: Any) -> Any:
        try:
            library = DDGS(timeout=max(1, int(question["seconds"])))
            values = library.text(question["query"], max_results=question["count"])
            return {"results": results_of(values, "title", "href", "body")[: question["count"]]}
        except TimeoutException:
            return {"late": True}
        except Exception as error:  # the library parses untrusted pages
            if isinstance(error, DDGSException) and "No results" in str(error):
                return {"results": []}
            return {"wrong": repr(error)[:500]}

    return answer


if __name__ == "__main__":
    limit(MEMORY)
    confine(network=True, ports=PORTS)
    serve(_begin)
