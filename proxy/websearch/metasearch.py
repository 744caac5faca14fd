"""The kept library ddgs: many engines at once, none needs a key.

It has a network stack of its own, which no loop of ours can wait for: it runs in a child (`python
-P -m proxy.websearch.metasearch`), which reaches no file, and by TCP only the ports of HTTPS and
DNS. Its addresses are not judged as those of pages are.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import msgspec

from ..cancel import Cancel
from ..children import Children, serve
from ..confinement import MEMORY, confine, limit
from ..errors import UpstreamFault, UpstreamTimeout
from .engines import from_library
from .values import Result

NAME = "ddgs"
PORTS = (53, 443)


def there() -> bool:
    """Whether the library is installed."""
    return find_spec("ddgs") is not None


class Metasearch:
    name = NAME

    def __init__(self) -> None:
        self._children = Children(__name__)

    def search(self, query: str, count: int, cancel: Cancel, seconds: float) -> list[Result]:
        """Raises UpstreamFault, UpstreamTimeout, Cancelled."""
        question = {"query": query, "count": count, "seconds": seconds}
        answer = self._children.ask(question, cancel, seconds + 1)
        if answer.get("late"):
            raise UpstreamTimeout("no search engine answered in time")
        if "wrong" in answer:
            raise UpstreamFault("no search engine can be reached", detail=answer["wrong"])
        return msgspec.convert(answer["results"], list[Result])

    def close(self) -> None:
        self._children.close()


# the child's side


def _begin(setup: Any) -> Callable[[Any], Any]:
    from ddgs import DDGS  # the extra `knowledge`
    from ddgs.exceptions import DDGSException, TimeoutException

    def answer(question: Any) -> Any:
        try:
            library = DDGS(timeout=max(1, int(question["seconds"])))
            found = from_library(library.text(question["query"], max_results=question["count"]))
            return {"results": [msgspec.to_builtins(one) for one in found[: question["count"]]]}
        except TimeoutException:
            return {"late": True}
        except DDGSException as error:
            if "No results" in str(error):
                return {"results": []}
            return {"wrong": repr(error)[:500]}
        except Exception as error:  # a search library reads pages of strangers
            return {"wrong": repr(error)[:500]}

    return answer


if __name__ == "__main__":
    limit(MEMORY)
    confine(network=True, ports=PORTS)
    serve(_begin)
