"""What the HTTP side and the engine say to each other: msgpack frames over a socket.

A frame is its length (four bytes, big-endian) and that many bytes of msgpack. One engine serves one
generation at a time; `id` tells to which call of a connection an answer belongs.

    ours:   (Generate | Encode | Decode | Cancel)*, once it is ready
    theirs: Reading* (Ready | Broken), at last Bye where it goes of itself, then for each
            Generate: Began Delta* Done | Refused      (Cancel makes it end with Done)
            Encode:   Encoded | Refused
            Decode:   Decoded | Refused
"""

from __future__ import annotations

import struct
from typing import Literal

import msgspec
from msgspec import Struct

LENGTH = struct.Struct(">I")
MAX_FRAME = 256 << 20  # bytes; only a defect makes one

Family = Literal["chatglm", "chatglm2", "chatglm3", "glm-4"]


class Turn(Struct, frozen=True, array_like=True):
    """One message as a template of the library takes it. `head` is what follows the role on its
    line, the name of a called tool."""

    role: Literal["system", "user", "assistant", "observation"]
    content: str
    head: str = ""


class Prompt(Struct, frozen=True, omit_defaults=True):
    """A conversation, or a text, or token ids as they are. `opening` are lines that the answer
    begins with, for a tool that must be called; `begun` is what a client wrote of the answer."""

    turns: tuple[Turn, ...] = ()
    text: str | None = None
    ids: tuple[int, ...] | None = None
    opening: tuple[str, ...] = ()
    begun: str = ""


class Load(Struct, frozen=True):
    """What an engine is started with. `n_ctx` shortens the model's context; 0 leaves it. After
    `idle` seconds without an order it ends; 0: never."""

    path: str
    n_ctx: int = 0
    idle: float = 0.0


class Generate(Struct, frozen=True, tag="generate"):
    """`max_tokens` are new tokens; None means what is left of the context. `temperature` 0 is
    greedy. `marks`: say the token that opens an assistant's turn as text."""

    id: int
    prompt: Prompt
    max_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    repeat_penalty: float
    marks: bool = False


class Encode(Struct, frozen=True, tag="encode"):
    """The ids of a prompt; `plain` without what the family puts in front of every text."""

    id: int
    prompt: Prompt
    plain: bool = False


class Decode(Struct, frozen=True, tag="decode"):
    id: int
    ids: tuple[int, ...]


class Cancel(Struct, frozen=True, tag="cancel"):
    id: int


Order = Generate | Encode | Decode | Cancel


class Reading(Struct, frozen=True, tag="reading"):
    """So many bytes of the model file are in memory."""

    done: int
    total: int


class Ready(Struct, frozen=True, tag="ready"):
    """The model is loaded, in the process `pid`."""

    family: Family
    n_ctx: int
    vocabulary: int
    version: str
    pid: int


class Broken(Struct, frozen=True, tag="broken"):
    """The model cannot be loaded."""

    reason: str


class Bye(Struct, frozen=True, tag="bye"):
    """It was not used for long. What was ordered and not begun is not lost: another does it."""


class Began(Struct, frozen=True, tag="began"):
    id: int
    prompt_tokens: int


class Delta(Struct, frozen=True, tag="delta"):
    """More text; `tokens` of the answer so far."""

    id: int
    text: str
    tokens: int


class Done(Struct, frozen=True, tag="done"):
    """The end. Milliseconds of prompt evaluation (with the first token) and of the rest."""

    id: int
    reason: Literal["stop", "length", "cancelled"]
    tokens: int
    prompt_ms: float
    predicted_ms: float


class Encoded(Struct, frozen=True, tag="encoded"):
    id: int
    ids: tuple[int, ...]


class Decoded(Struct, frozen=True, tag="decoded"):
    id: int
    text: str


class Refused(Struct, frozen=True, tag="refused"):
    """`kind` context: the prompt is too long, with both numbers; tokens: ids that are none of
    this model's; fault: the library failed, `reason` is for the log."""

    id: int
    kind: Literal["context", "tokens", "fault"]
    reason: str = ""
    n_prompt: int = 0
    n_ctx: int = 0


Answer = Began | Delta | Done | Encoded | Decoded | Refused
Report = Reading | Ready | Broken | Bye | Answer

_encoder = msgspec.msgpack.Encoder()
_orders: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)
_reports: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)


def pack(frame: Order | Report) -> bytes:
    data = _encoder.encode(frame)
    return LENGTH.pack(len(data)) + data


def order(data: bytes) -> Order:
    """Raises msgspec.DecodeError."""
    return _orders.decode(data)


def report(data: bytes) -> Report:
    """Raises msgspec.DecodeError."""
    return _reports.decode(data)


class Frames:
    """feed(bytes) -> the contents of the frames that are whole. Raises ValueError for a length
    that no frame has."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        buffer = self._buffer
        buffer += data
        out = []
        at = 0
        while len(buffer) - at >= LENGTH.size:
            (size,) = LENGTH.unpack_from(buffer, at)
            if size > MAX_FRAME:
                raise ValueError(f"a frame of {size} bytes")
            end = at + LENGTH.size + size
            if len(buffer) < end:
                break
            out.append(bytes(buffer[at + LENGTH.size : end]))
            at = end
        del buffer[:at]
        return out
