"""Strangers are asked and read beside the gateway: whatever a web server sends goes to a child
(`python -P -m proxy.websearch.reading`), which holds up nobody, can be ended, and reaches no file.

One child serves a search: it asks the engine, or fetches the pages that were found, side by side.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from .. import errors
from ..cancel import Cancel
from ..children import LAST, Children, serve
from ..confinement import MEMORY, confine, limit
from . import engines, passages
from .fetch import fetch
from .values import Request, Result

GRACE = 2.0  # seconds a child has beyond its time, to start and to say what it has


class Reading:
    def __init__(self) -> None:
        self._children = Children(__name__)

    def results(
        self, engine: str, request: Request, count: int, cancel: Cancel, seconds: float
    ) -> list[Result]:
        """What an engine answers. Raises UpstreamFault, UpstreamTimeout, Cancelled."""
        question = {"engine": engine, "request": _sent(request), "count": count, "seconds": seconds}
        answer = self._ask(question, cancel, seconds)
        return msgspec.convert(answer["results"], list[Result])

    def passages(
        self,
        urls: Sequence[str],
        query: str,
        count: int,
        cancel: Cancel,
        seconds: float,
        *,
        open_only: bool,
    ) -> list[str]:
        """The passages of each page that fit a question, `count` at most; "" for a page that cannot
        be had in time. Raises UpstreamFault, UpstreamTimeout, Cancelled."""
        question = {
            "urls": urls,
            "query": query,
            "count": count,
            "seconds": seconds,
            "open_only": open_only,
        }
        return msgspec.convert(self._ask(question, cancel, seconds)["texts"], list[str])

    def _ask(self, question: Any, cancel: Cancel, seconds: float) -> Any:
        try:
            answer = self._children.ask(question, cancel, seconds + GRACE)
        except errors.UpstreamTimeout:
            raise errors.UpstreamTimeout("the web was not read in time") from None
        if "wrong" in answer:
            kinds = {kind.__name__: kind for kind in KINDS}
            raise kinds[answer["wrong"]](answer["message"], detail=answer["detail"])
        return answer

    def close(self) -> None:
        self._children.close()


# the child's side

KINDS = (errors.Forbidden, errors.UpstreamFault, errors.UpstreamTimeout)


def _sent(request: Request) -> Any:
    body = None if request.body is None else request.body.decode()
    return {"url": request.url, "headers": dict(request.headers), "body": body}


def _begin(setup: Any) -> Any:
    return _answered


def _answered(question: Any) -> Any:
    try:
        return _texts(question) if "urls" in question else _results(question)
    except KINDS as error:
        kind = next(kind for kind in KINDS if isinstance(error, kind))
        return {"wrong": kind.__name__, "message": error.message, "detail": error.detail[:500]}


def _results(question: Any) -> Any:
    sent = question["request"]
    body = None if sent["body"] is None else sent["body"].encode()
    request = Request(sent["url"], sent["headers"], body)
    page = fetch(request, question["seconds"], open_only=False)
    found = engines.read(question["engine"], page.status, page.data)
    return {"results": [msgspec.to_builtins(one) for one in found[: question["count"]]]}


def _texts(question: Any) -> Mapping[str, Any]:
    """Pages are read side by side; one that does not come in time ends with this child."""
    end = time.monotonic() + question["seconds"]
    texts = [""] * len(question["urls"])

    def read(at: int, url: str) -> None:
        try:
            page = fetch(Request(url), end - time.monotonic(), open_only=question["open_only"])
        except errors.GatewayError:
            return
        if page.status == 200:
            pieces = passages.split(passages.text_of(page.data, page.content_type))
            texts[at] = "\n…\n".join(passages.best(pieces, question["query"], question["count"]))

    threads = [
        threading.Thread(target=read, args=one, daemon=True) for one in enumerate(question["urls"])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    late = {LAST: True} if any(thread.is_alive() for thread in threads) else {}
    return {"texts": list(texts), **late}


if __name__ == "__main__":
    limit(MEMORY)
    confine(network=True)
    serve(_begin)
