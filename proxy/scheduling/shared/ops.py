"""What workers write into the log, as msgpack arrays. No text of a prompt is in it: digests alone.

An `id` is the writer's own number of a request, from its coming until its slot is given back.
Which backends a worker has, and how it finds them, is known from its own entries before: so its
requests do not say that again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import msgspec
from msgspec import Struct

from ...core.task import Task
from ..lease import Outcome
from ..prefix import SIZE, Chain
from ..state import Keeps, Step, Want

log = logging.getLogger("slotproxy.scheduling")

FORMAT = 3  # of entries and snapshots; another one is never read


class Come(Struct, frozen=True, array_like=True, tag=1):
    """A request comes: its Want, with the chain's links in a row; `ids`: of token ids."""

    id: int
    model: str
    key: str
    group: str
    session: str
    share: float
    aside: bool
    again: bool
    ids: bool
    max_tokens: int | None
    exclude: tuple[str, ...]
    links: bytes
    ends: tuple[int, ...]
    turn: int
    whole_backend: bool = False

    def want(self, views: Mapping[str, bool | None]) -> Want:
        """`views` are the writer's own, kept up to date while the request waits."""
        links = tuple(self.links[i : i + SIZE] for i in range(0, len(self.links), SIZE))
        return Want(
            self.model,
            Task(prompt=() if self.ids else "", max_tokens=self.max_tokens),
            frozenset(self.exclude),
            Chain(links, self.ends, self.turn),
            self.key,
            self.group,
            self.session,
            self.share,
            self.aside,
            whole_backend=self.whole_backend,
            views=views,
        )


def come(number: int, want: Want, again: bool) -> Come:
    """The session is the client's own word, so its digest is written."""
    session = blake2b(want.session.encode("utf-8", "replace"), digest_size=12).hexdigest()
    return Come(
        number,
        want.model,
        want.key,
        want.group,
        session if want.session else "",
        want.share,
        want.aside,
        again,
        not isinstance(want.task.prompt, str),
        want.task.max_tokens,
        tuple(sorted(want.exclude)),
        b"".join(want.chain.links),
        want.chain.ends,
        want.chain.turn,
        want.whole_backend,
    )


class Leave(Struct, frozen=True, array_like=True, tag=2):
    """It waits no more, or does not need what it got."""

    id: int


class Flows(Struct, frozen=True, array_like=True, tag=3):
    """Its first token came, from the slot of this number."""

    id: int
    number: int


class Ends(Struct, frozen=True, array_like=True, tag=4):
    """Its last token came."""

    id: int


class Steps(Struct, frozen=True, array_like=True, tag=5):
    """It asks what to do to its slot first."""

    id: int


class Stepped(Struct, frozen=True, array_like=True, tag=6):
    """One of these steps was done."""

    id: int
    step: Step
    tokens: int
    size: int
    seconds: float


class Back(Struct, frozen=True, array_like=True, tag=7):
    """Its slot is given back."""

    id: int
    outcome: Outcome


class Facts(Struct, frozen=True, array_like=True):
    """A backend as a probe found it; as `Scheduler.update` has it."""

    model: str
    slots: int
    weight: float = 1.0
    pins: bool = True
    keeps: Keeps = "nothing"
    settles: float = 0.0


class Found(Struct, frozen=True, array_like=True, tag=8):
    """The writer's own view of a backend; `anew`: nothing known of its slots can be trusted;
    `replaces`: for the writer it is another server than the one of this name before."""

    name: str
    up: bool | None
    facts: Facts
    anew: bool = False
    replaces: bool = False


class Down(Struct, frozen=True, array_like=True, tag=9):
    """The writer finds a backend up, or down; `awaits` as `Scheduler.mark` has it."""

    name: str
    up: bool
    awaits: float = 0.0


class Drain(Struct, frozen=True, array_like=True, tag=10):
    """The writer asks nothing more of a backend."""

    name: str


class Beat(Struct, frozen=True, array_like=True, tag=11):
    """The writer lives, and time goes on."""


class Bye(Struct, frozen=True, array_like=True, tag=12):
    """The writer ends."""


Op = Come | Leave | Flows | Ends | Steps | Stepped | Back | Found | Down | Drain | Beat | Bye
_encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(list[Op]).decode


def encode(written: Sequence[Op]) -> bytes:
    """One entry. What cannot be written is left out, and logged: a request it is about then counts
    as over, so that its slot is not kept for ever."""
    try:
        return _encode(written)
    except Exception:
        return _encode([fit for op in written if (fit := _writable(op)) is not None])


def _writable(op: Op) -> Op | None:
    try:
        _encode(op)
    except Exception:
        log.exception("a defect: %s cannot be written to the log", type(op).__name__)
        return Leave(op.id) if isinstance(op, Come | Back) else None
    return op
