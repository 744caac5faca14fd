"""Operations that workers write into the log, as msgpack arrays. Digests only, no prompt text.

An `id` is the writer's own number for a request, from its arrival until its slot is released. Which
backends a worker has, and whether it finds them up, follows from its own earlier entries, so its
requests do not repeat it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import msgspec
from msgspec import Struct

from ..lease import Outcome
from ..prefix import SIZE, Chain
from ..state import BackendFacts, SlotRequest, SlotStep

log = logging.getLogger("slotproxy.scheduling")

FORMAT = 14  # of entries and snapshots; other formats are never read


class Enqueue(Struct, frozen=True, array_like=True, tag=1, kw_only=True):
    """A request arrives. The fields are those of SlotRequest, with the chain's links concatenated;
    `ids`: the prompt is token ids."""

    id: int
    model: str
    key: str
    group: str
    session: str
    share: float
    background: bool
    again: bool
    ids: bool
    max_tokens: int | None
    exclude: tuple[str, ...]
    links: bytes
    ends: tuple[int, ...]
    turn: int
    whole_backend: bool = False
    tools: bool = False
    idle: bool = False
    barred: tuple[str, ...] = ()

    def want(self, views: Mapping[str, bool | None]) -> SlotRequest:
        """The request. `views` is the writer's own view, updated while the request waits."""
        return SlotRequest(
            model=self.model,
            ids=self.ids,
            max_tokens=self.max_tokens,
            exclude=frozenset(self.exclude),
            chain=Chain(split_links(self.links), self.ends, self.turn),
            key=self.key,
            group=self.group,
            session=self.session,
            share=self.share,
            background=self.background,
            whole_backend=self.whole_backend,
            tools=self.tools,
            idle=self.idle,
            barred=frozenset(self.barred),
            views=views,
        )


def split_links(links: bytes) -> tuple[bytes, ...]:
    """The links of a chain that were concatenated."""
    return tuple(links[i : i + SIZE] for i in range(0, len(links), SIZE))


def enqueue(number: int, want: SlotRequest, again: bool) -> Enqueue:
    """The session name is the client's own text, so only its digest is written."""
    session = blake2b(want.session.encode("utf-8", "replace"), digest_size=12).hexdigest()
    return Enqueue(
        id=number,
        model=want.model,
        key=want.key,
        group=want.group,
        session=session if want.session else "",
        share=want.share,
        background=want.background,
        again=again,
        ids=want.ids,
        max_tokens=want.max_tokens,
        exclude=tuple(sorted(want.exclude)),
        links=b"".join(want.chain.links),
        ends=want.chain.ends,
        turn=want.chain.turn,
        whole_backend=want.whole_backend,
        tools=want.tools,
        idle=want.idle,
        barred=tuple(sorted(want.barred)),
    )


class Leave(Struct, frozen=True, array_like=True, tag=2):
    """A request no longer waits, or does not need its slot."""

    id: int


class FirstToken(Struct, frozen=True, array_like=True, tag=3):
    """The first token of a request came, from slot `number`."""

    id: int
    number: int


class LastToken(Struct, frozen=True, array_like=True, tag=4):
    """The last token of a request came."""

    id: int


class RequestSteps(Struct, frozen=True, array_like=True, tag=5):
    """A request asks for the steps to do on its slot."""

    id: int


class StepDone(Struct, frozen=True, array_like=True, tag=6):
    """A step on a request's slot was done."""

    id: int
    step: SlotStep
    tokens: int
    size: int
    seconds: float


class Release(Struct, frozen=True, array_like=True, tag=7):
    """A request's slot is released."""

    id: int
    outcome: Outcome


class BackendFound(Struct, frozen=True, array_like=True, tag=8):
    """The writer's own view of a backend. `anew`: nothing known of its slots can be trusted;
    `replaces`: to the writer it is a different server under an old name."""

    name: str
    up: bool | None
    facts: BackendFacts
    anew: bool = False
    replaces: bool = False


class BackendHealth(Struct, frozen=True, array_like=True, tag=9):
    """The writer finds a backend up or down. `load_delay` as in `LocalScheduler.mark`."""

    name: str
    up: bool
    load_delay: float = 0.0


class BackendQueues(Struct, frozen=True, array_like=True, tag=13):
    """A backend queues requests itself while so many are running."""

    name: str
    running: int


class Drain(Struct, frozen=True, array_like=True, tag=10):
    """The writer sends no more requests to a backend."""

    name: str


class Heartbeat(Struct, frozen=True, array_like=True, tag=11):
    """The writer is alive. Also advances the log's time."""


class MemberLeft(Struct, frozen=True, array_like=True, tag=12):
    """The writer leaves."""


Op = (
    Enqueue
    | Leave
    | FirstToken
    | LastToken
    | RequestSteps
    | StepDone
    | Release
    | BackendFound
    | BackendHealth
    | BackendQueues
    | Drain
    | Heartbeat
    | MemberLeft
)
_encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(list[Op]).decode


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
