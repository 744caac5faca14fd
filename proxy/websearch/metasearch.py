"""Search with the ddgs library, which queries many engines and needs no key.

Its network stack cannot cooperate with our event loop, so it runs in a child process (`python -P -m
proxy.websearch.metasearch`) without access to files, which can connect over TCP to the ports of
HTTPS and DNS only. Its addresses are not checked like those of pages.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import msgspec

from ..errors import UpstreamFault, UpstreamTimeout
from ..runtime.cancel import Cancel
from ..runtime.confinement import MEMORY, confine, limit
from ..runtime.subprocesses import Children, serve
from .engines import from_library
from .guard import WebResult

NAME = "ddgs"
PORTS = (53, 443)


def is_installed() -> bool:
    """Whether the library is installed."""
    return find_spec("ddgs") is not None


class Metasearch:
    name = NAME

    def __init__(self) -> None:
        self._children = Children(__name__)

    def search(self, query: str, count: int, cancel: Cancel, seconds: float) -> list[WebResult]:
        """Raises UpstreamFault, UpstreamTimeout, Cancelled."""
        question = {"query": query, "count": count, "seconds": seconds}
        answer = self._children.ask(question, cancel, seconds + 1)
        if answer.get("late"):
            raise UpstreamTimeout("the search engines timed out")
        if "wrong" in answer:
            raise UpstreamFault("no search engine is reachable", detail=answer["wrong"])
        return msgspec.convert(answer["results"], list[WebResult])

    def close(self) -> None:
        self._children.close()


# in the child process


def _begin(setup: Any) -> Callable[[Any], Any]:
    from ddgs import DDGS  # the extra `knowledge`
    from ddgs.exceptions import DDGSException, TimeoutException

    def answer(question: Any) -> Any:
        try:
            library = DDGS(timeout=max(1, int(question["seconds"])))
            results = from_library(library.text(question["query"], max_results=question["count"]))
            return {"results": results[: question["count"]]}
        except TimeoutException:
            return {"late": True}
        except DDGSException as error:
            if "No results" in str(error):
                return {"results": []}
            return {"wrong": repr(error)[:500]}
        except Exception as error:  # the library parses untrusted pages
            return {"wrong": repr(error)[:500]}

    return answer


if __name__ == "__main__":
    limit(MEMORY)
    confine(network=True, ports=PORTS)
    serve(_begin)
