"""Pages are read beside the gateway: what a stranger wrote is worked through in a child (`python -m
proxy.websearch.reading`), which holds up nobody and can be ended."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from ..cancel import Cancel
from ..children import Children, serve
from . import passages
from .fetch import Page


class Reading:
    def __init__(self) -> None:
        self._children = Children(__name__)

    def best(self, page: Page, query: str, count: int, cancel: Cancel, seconds: float) -> list[str]:
        """The passages of a page that fit. Raises UpstreamFault, UpstreamTimeout, Cancelled."""
        question = {
            "data": page.data,  # in base64, as JSON has no bytes
            "content_type": page.content_type,
            "query": query,
            "count": count,
        }
        return list(map(str, self._children.ask(question, cancel, seconds)))

    def close(self) -> None:
        self._children.close()


# the child's side


def _begin(setup: Any) -> Callable[[Any], Any]:
    def answer(question: Any) -> Any:
        text = passages.text_of(base64.b64decode(question["data"]), question["content_type"])
        return passages.best(passages.split(text), question["query"], question["count"])

    return answer


if __name__ == "__main__":
    serve(_begin)
