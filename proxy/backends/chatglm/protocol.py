"""What the driver and the engine's process send each other: lines of JSON.

The first line is the `Load`. One engine runs one generation at a time; `id` is the call that an
answer belongs to, set as it is sent.

    driver: (Generate | Encode | Decode | Cancel)*, once the engine is ready
    engine: Ready | Broken; for each
            Generate: Began Delta* Done | Refused      (after Cancel, nothing more)
            Encode, Decode: Converted | Refused
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec
from msgspec import Struct

Family = Literal["chatglm", "chatglm2", "chatglm3", "glm-4"]


class ChatTurn(Struct, frozen=True, array_like=True):
    """A message for the library's templates. `head`, a called tool, follows the role."""

    role: Literal["system", "user", "assistant", "observation"]
    content: str
    head: str = ""


class PromptMessage(Struct, frozen=True, omit_defaults=True):
    """A conversation, a text, or token ids. `opening` are lines that begin the answer, for a tool
    that must be called; `begun` is a beginning of the answer written by the client."""

    turns: tuple[ChatTurn, ...] = ()
    text: str | None = None
    ids: tuple[int, ...] | None = None
    opening: tuple[str, ...] = ()
    begun: str = ""


class Load(Struct, frozen=True):
    """The parameters of an engine. `n_ctx` reduces the model's context; 0 keeps it."""

    path: str
    n_ctx: int = 0


class Generate(Struct, frozen=True, tag="generate", kw_only=True):
    """Generate an answer of at most `max_tokens`, None for the rest of the context. `temperature` 0
    is greedy. `marks`: return the token that begins an assistant's turn as text."""

    id: int = 0
    prompt: PromptMessage
    max_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    repeat_penalty: float
    marks: bool = False


class Encode(Struct, frozen=True, tag="encode"):
    """Tokenize a prompt; `plain`: without the marks that the family puts before every text."""

    id: int
    prompt: PromptMessage
    plain: bool = False


class Decode(Struct, frozen=True, tag="decode"):
    id: int
    ids: tuple[int, ...]


class CancelMessage(Struct, frozen=True, tag="cancel"):
    id: int


Small = Encode | Decode
Work = Generate | Small
Order = Work | CancelMessage


class Ready(Struct, frozen=True, tag="ready"):
    """The model is loaded."""

    family: Family
    n_ctx: int
    version: str


class Broken(Struct, frozen=True, tag="broken"):
    """The model cannot be loaded."""

    reason: str


class Began(Struct, frozen=True, tag="began"):
    id: int
    prompt_tokens: int


class Delta(Struct, frozen=True, tag="delta"):
    """More text; `tokens` is the length of the answer so far."""

    id: int
    text: str
    tokens: int


class Done(Struct, frozen=True, tag="done"):
    """The end. Times in milliseconds: prompt evaluation (with the first token), and the rest."""

    id: int
    reason: Literal["stop", "length"]
    tokens: int
    prompt_ms: float
    predicted_ms: float


class Converted(Struct, frozen=True, tag="converted"):
    """The ids of a text, or the text of ids."""

    id: int
    ids: tuple[int, ...] = ()
    text: str = ""


class Refused(Struct, frozen=True, tag="refused"):
    """An order was refused. `kind` context: the prompt is too long, with both numbers; tokens: the
    model does not have these ids; fault: the library failed, with `reason` for the log."""

    id: int
    kind: Literal["context", "tokens", "fault"]
    reason: str = ""
    n_prompt: int = 0
    n_ctx: int = 0


Answer = Began | Delta | Done | Converted | Refused
Report = Ready | Broken | Answer

# They raise msgspec.DecodeError, a ValueError.
read_load: Callable[[bytes], Load] = msgspec.json.Decoder(Load).decode
read_order: Callable[[bytes], Order] = msgspec.json.Decoder(Order).decode
read_report: Callable[[bytes], Report] = msgspec.json.Decoder(Report).decode


def line(message: Load | Order | Report) -> bytes:
    return msgspec.json.encode(message) + b"\n"
