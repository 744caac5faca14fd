"""Queries search engines and reads pages in a child process (`python -P -m
proxy.websearch.reading`).

Whatever a web server sends, the child cannot block the gateway, can be ended, and has no access to
files. One child serves a search: it queries the engine, or fetches all result pages concurrently.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from .. import errors
from ..runtime.cancel import Cancel
from ..runtime.confinement import MEMORY, confine, limit
from ..runtime.subprocesses import LAST, Children, serve
from . import engines, passages
from .fetch import fetch
from .guard import EngineRequest, WebResult

GRACE = 2.0  # extra seconds for the child to return its results
START = 10.0  # and for its start, on a busy machine


class PageReader:
    def __init__(self) -> None:
        self._children = Children(__name__, start=START)

    def results(
        self, engine: str, request: EngineRequest, count: int, cancel: Cancel, seconds: float
    ) -> list[WebResult]:
        """The results of an engine. Raises UpstreamFault, UpstreamTimeout, Cancelled."""
        question = {"engine": engine, "request": request, "count": count, "seconds": seconds}
        answer = self._ask(question, cancel, seconds)
        return msgspec.convert(answer["results"], list[WebResult])

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
        """For each page, at most `count` passages relevant to the query; "" if it cannot be read in
        time. Raises UpstreamFault, UpstreamTimeout, Cancelled."""
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
            raise errors.UpstreamTimeout("timed out reading the web") from None
        if "wrong" in answer:
            kinds = {kind.__name__: kind for kind in KINDS}
            raise kinds[answer["wrong"]](answer["message"], detail=answer["detail"])
        return answer

    def close(self) -> None:
        self._children.close()


# in the child process

KINDS = (errors.Forbidden, errors.UpstreamFault, errors.UpstreamTimeout)


def _begin(setup: Any) -> Any:
    return _answered


def _answered(question: Any) -> Any:
    try:
        return _texts(question) if "urls" in question else _results(question)
    except KINDS as error:
        kind = next(kind for kind in KINDS if isinstance(error, kind))
        return {"wrong": kind.__name__, "message": error.message, "detail": error.detail[:500]}


def _results(question: Any) -> Any:
    request = msgspec.convert(question["request"], EngineRequest)
    page = fetch(request, question["seconds"], open_only=False)
    results = engines.read(question["engine"], page.status, page.data)
    return {"results": results[: question["count"]]}


def _texts(question: Any) -> Mapping[str, Any]:
    """Reads pages concurrently. Reads that are late end with this child."""
    end = time.monotonic() + question["seconds"]
    texts = [""] * len(question["urls"])

    def read(at: int, url: str) -> None:
        try:
            page = fetch(
                EngineRequest(url), end - time.monotonic(), open_only=question["open_only"]
            )
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
