"""What dialects share: the metadata of an answer, and the parts of a dialect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from msgspec import Struct

from ..core.events import Compacted
from ..core.fold import Completion
from ..core.request import CompletionRequest
from ..errors import GatewayError
from .fields import Body


class ResponseMeta(Struct, frozen=True):
    """`id` is unique, `created` in seconds since 1970, `model` the served name. `fingerprint`
    identifies the backend's build. `elapsed()` returns the seconds since the request arrived."""

    id: str
    created: int
    model: str
    fingerprint: str = ""
    elapsed: Callable[[], float] = float


class RouteDialect(NamedTuple):
    """The dialect of one route, in modules with several."""

    parse: Callable[[Body], CompletionRequest]
    reply: Callable[[ResponseMeta, CompletionRequest, Sequence[Completion]], Any]
    error: Callable[[GatewayError], dict[str, Any]]
    Encoder: Callable[[ResponseMeta, CompletionRequest], Any]


def compaction_field(compacted: Compacted | None) -> dict[str, Any]:
    """The number of replaced messages, their summary, and its tokens; empty without any."""
    if compacted is None:
        return {}
    usage = {
        "input_tokens": compacted.usage.prompt,
        "cached_tokens": compacted.usage.cached,
        "output_tokens": compacted.usage.completion,
    }
    fields = {"messages": compacted.messages, "summary": compacted.summary, "usage": usage}
    return {"compaction": fields}
