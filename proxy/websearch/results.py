"""Search results and engine requests."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct


class WebResult(Struct, frozen=True):
    """A page that was found; `snippet` is plain text from the engine or from the page."""

    title: str
    url: str
    snippet: str


class EngineRequest(Struct, frozen=True):
    """An HTTP request; POST if there is a `body`."""

    url: str
    headers: Mapping[str, str] = {}
    body: bytes | None = None
