"""A client's request that a model's server gets as it is, and the answer: audio, images and other
APIs that the gateway does not translate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from msgspec import Struct


class CallBody(Struct, frozen=True):
    """A body of `size` bytes. `parts` may be iterated more than once, because a request is sent
    again on a new connection if the server had closed the old one."""

    size: int
    parts: Iterable[bytes]


class Call(Struct, frozen=True):
    """`path` begins with a slash; it is percent-encoded and ends with the query. `headers` are the
    client's that the server may see. Their names and values contain no line breaks."""

    method: str
    path: str
    headers: Mapping[str, str] = {}
    body: CallBody | None = None


# Makes the call once its server is known, from the server's name for the model; "" stands for the
# name in the request.
CallMaker = Callable[[str], Call]


class Forwarded(Protocol):
    """The answer of a server. `headers` are those about its content, by names in lower case."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    def __iter__(self) -> Iterator[bytes]:
        """The body as it arrives. Raises the errors of a driver."""

    def close(self) -> None:
        """End the answer. Safe to call again."""
