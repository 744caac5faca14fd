"""Operations that workers write into the log, as msgpack arrays. Digests only, no prompt text.

An `id` is the writer's own number for a request, from its arrival until its slot is released. Which
backends a worker has, and whether it finds them up, follows from its own earlier entries, so its
requests do not repeat it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Union

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ..lease import Outcome
from ..state import BackendFacts, SlotRequest, SlotStep

log = logging.getLogger("slotproxy.scheduling")

FORMAT = 22  # of entries and snapshots; other formats are never read


class Op(Struct, frozen=True, array_like=True):
    """What one worker did. Its subclasses are all that there are."""


class Enqueue(Op, frozen=True, tag=1):
    id: int
    request: SlotRequest
    is_retry: bool

    def __post_init__(self) -> None:
        self.request.chain.check()


def enqueue(number: int, request: SlotRequest, is_retry: bool) -> Enqueue:
    """The session name is the client's own text, so only its digest is written."""
    if request.session:
        session = request.session.encode("utf-8", "replace")
        request = replace(request, session=blake2b(session, digest_size=12).hexdigest())
    return Enqueue(number, request, is_retry)


class Leave(Op, frozen=True, tag=2):
    """A request no longer waits, or does not need its slot."""

    id: int


class FirstToken(Op, frozen=True, tag=3):
    id: int
    number: int  # of the slot it came from


class RequestSteps(Op, frozen=True, tag=4):
    id: int


class StepDone(Op, frozen=True, tag=5):
    id: int
    step: SlotStep
    tokens: int
    size: int
    seconds: float


class Release(Op, frozen=True, tag=6):
    id: int
    outcome: Outcome


class BackendFound(Op, frozen=True, tag=7):
    """The writer's own view of a backend. `anew`: nothing known of its slots can be trusted;
    `replaces`: to the writer it is a different server under an old name."""

    name: str
    up: bool | None
    facts: BackendFacts
    anew: bool = False
    replaces: bool = False


class BackendHealth(Op, frozen=True, tag=8):
    """The writer finds a backend up or down. `load_delay` as in `LocalScheduler.mark`."""

    name: str
    up: bool
    load_delay: float = 0.0


class Drain(Op, frozen=True, tag=9):
    name: str


class Heartbeat(Op, frozen=True, tag=10):
    """The writer is alive. Also advances the log's time."""


class MemberLeft(Op, frozen=True, tag=11):
    """The writer leaves."""


_encode = msgspec.msgpack.Encoder().encode
_OPS: Any = Union[tuple(Op.__subclasses__())]  # noqa: UP007
decode: Callable[[bytes], list[Op]] = msgspec.msgpack.Decoder(list[_OPS]).decode


def encode(written: Sequence[Op]) -> bytes:
    """Encode one entry. Operations that cannot be encoded are logged and dropped; a request whose
    arrival or release is dropped counts as over, so that its slot does not stay busy forever."""
    try:
        return _encode(written)
    except Exception:
        return _encode([fit for op in written if (fit := _writable(op)) is not None])


def _writable(op: Op) -> Op | None:
    try:
        _encode(op)
    except Exception:
        log.exception("internal error: %s cannot be encoded for the log", type(op).__name__)
        return Leave(op.id) if isinstance(op, Enqueue | Release) else None
    return op
