"""The metadata shared by all parts of one answer."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct


class ResponseMeta(Struct, frozen=True):
    """`id` is unique, `created` in seconds since 1970, `model` the served name. `fingerprint`
    identifies the backend's build. `elapsed()` returns the seconds since the request arrived."""

    id: str
    created: int
    model: str
    fingerprint: str = ""
    elapsed: Callable[[], float] = float
