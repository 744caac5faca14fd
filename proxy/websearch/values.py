"""What is searched with and what is found."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct


class Result(Struct, frozen=True):
    """A page that was found: `snippet` is plain text of it, the engine's or ours."""

    title: str
    url: str
    snippet: str


class Request(Struct, frozen=True):
    """One HTTP request; a POST where there is a `body`."""

    url: str
    headers: Mapping[str, str] = {}
    body: bytes | None = None
