"""The protocol between the HTTP side and the engine: msgpack frames over a socket, and the
engine's side of that socket.

A frame is its length (four bytes, big-endian) and that many bytes of msgpack. One engine runs one
generation at a time; `id` is the call of a connection that an answer belongs to, set as it is sent.

    client: (Generate | Encode | Decode | Cancel)*, once the engine is ready
    engine: Reading* (Ready | Broken), finally Bye if it ends by itself; for each
            Generate: Began Delta* Done | Refused      (Cancel makes it end with Done)
            Encode:   Encoded | Refused
            Decode:   Decoded | Refused
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Literal

import msgspec
from msgspec import Struct

LENGTH = struct.Struct(">I")
MAX_FRAME = 256 << 20  # bytes; a larger frame is a defect

Family = Literal["chatglm", "chatglm2", "chatglm3", "glm-4"]


class ChatTurn(Struct, frozen=True, array_like=True):
    """A message for a template of the library. `head` follows the role on its line: the name of a
    called tool."""

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
    """The parameters of an engine. `n_ctx` reduces the model's context; 0 keeps it. The engine ends
    after `idle` seconds without an order; 0: never."""

    path: str
    n_ctx: int = 0
    idle: float = 0.0


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


Order = Generate | Encode | Decode | CancelMessage


class ReadingMessage(Struct, frozen=True, tag="reading"):
    """Progress: so many bytes of the model file are in memory."""

    done: int
    total: int


class Ready(Struct, frozen=True, tag="ready"):
    """The model is loaded, in process `pid`."""

    family: Family
    n_ctx: int
    vocabulary: int
    version: str
    pid: int


class Broken(Struct, frozen=True, tag="broken"):
    """The model cannot be loaded."""

    reason: str


class ByeMessage(Struct, frozen=True, tag="bye"):
    """The engine ends because it was idle. Orders not begun are not lost: another one does them."""


class Began(Struct, frozen=True, tag="began"):
    id: int
    prompt_tokens: int


class Delta(Struct, frozen=True, tag="delta"):
    """More text; `tokens` is the length of the answer so far."""

    id: int
    text: str
    tokens: int


class DoneMessage(Struct, frozen=True, tag="done"):
    """The end. Times in milliseconds: prompt evaluation (with the first token), and the rest."""

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


class RefusedMessage(Struct, frozen=True, tag="refused"):
    """An order was refused. `kind` context: the prompt is too long, with both numbers; tokens: the
    model does not have these ids; fault: the library failed, with `reason` for the log."""

    id: int
    kind: Literal["context", "tokens", "fault"]
    reason: str = ""
    n_prompt: int = 0
    n_ctx: int = 0


Answer = Began | Delta | DoneMessage | Encoded | Decoded | RefusedMessage
Report = ReadingMessage | Ready | Broken | ByeMessage | Answer

_encoder = msgspec.msgpack.Encoder()
# Decoders of a frame's content. They raise msgspec.DecodeError.
read_order: Callable[[bytes], Order] = msgspec.msgpack.Decoder(Order).decode
read_report: Callable[[bytes], Report] = msgspec.msgpack.Decoder(Report).decode


def pack(frame: Order | Report) -> bytes:
    data = _encoder.encode(frame)
    return LENGTH.pack(len(data)) + data


class Frames:
    """feed(bytes) -> the contents of complete frames. Raises ValueError for an invalid length."""

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


CHUNK = 1 << 16
BOUND = 64 << 20  # bytes buffered for a peer that does not read


class Alone(Exception):
    """The last connection has closed."""


class PeerEvent(Enum):
    JOINED = "joined"
    LEFT = "left"


class Peer:
    """A connection. Frames for a disconnected peer are dropped."""

    def __init__(self, sock: socket.socket, selector: selectors.BaseSelector) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.frames = Frames()
        self._selector = selector
        self._out = bytearray()
        self.gone = False
        selector.register(sock, selectors.EVENT_READ, self)

    def send(self, frame: Report) -> None:
        if not self.gone:
            self._out += pack(frame)
            self.flush()

    def flush(self) -> None:
        waited = selectors.EVENT_READ
        try:
            while self._out:
                del self._out[: self.sock.send(self._out)]
        except BlockingIOError:
            waited |= selectors.EVENT_WRITE
            if len(self._out) > BOUND:
                self._break()
        except OSError:
            self._break()
        if not self.gone and self._selector.get_key(self.sock).events != waited:
            self._selector.modify(self.sock, waited, self)

    def orders(self) -> list[Order]:
        """The orders received. Raises EOFError if it has disconnected or sent invalid data."""
        try:
            data = self.sock.recv(CHUNK)
            orders = [read_order(frame) for frame in self.frames.feed(data)]
        except BlockingIOError:
            return []
        except (OSError, ValueError, msgspec.DecodeError):
            raise EOFError from None
        if not data:
            raise EOFError
        return orders

    def close(self) -> None:
        if not self.gone:
            self.gone = True
            self._selector.unregister(self.sock)
            self.sock.close()

    def _break(self) -> None:
        """Treat it as disconnected, which `receive` will report."""
        self._out.clear()
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)


class Peers:
    """All connections to an engine. `listener` is a Unix socket where more may join; None: only
    `first`. The engine calls this between two tokens, so nothing here waits for a peer: data that
    a peer does not accept is buffered, up to a bound. Without connections, the engine is no longer
    needed."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        listener: socket.socket | None = None,
        first: Sequence[socket.socket] = (),
    ) -> None:
        self._selector = selector
        self._listener = listener
        self._all = [Peer(sock, selector) for sock in first]
        if listener is not None:
            listener.setblocking(False)
            selector.register(listener, selectors.EVENT_READ)
            self._accept()

    def receive(self, seconds: float | None) -> list[tuple[Peer, Order | PeerEvent]]:
        """Orders and events, after waiting at most so many seconds (None: forever). Raises
        Alone."""
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            if not self._all:
                raise Alone
            left = None if end is None else max(0.0, end - time.monotonic())
            out: list[tuple[Peer, Order | PeerEvent]] = []
            for key, events in self._selector.select(left):
                peer = key.data
                if peer is None:
                    out += [(peer, PeerEvent.JOINED) for peer in self._accept()]
                elif events & selectors.EVENT_WRITE:
                    peer.flush()
                else:
                    out += self._heard(peer)
            if out or (end is not None and time.monotonic() >= end):
                return out

    def tell(self, frame: Report) -> None:
        """Send a frame to all."""
        for peer in self._all:
            peer.send(frame)

    def farewell(self, frame: Report) -> None:
        """Send the last frame to all, including new connections, and accept no more."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._listener.getsockname())
            self._accept()
        self.tell(frame)

    def close(self) -> None:
        for peer in self._all:
            peer.close()
        if self._listener is not None:
            self._listener.close()
        self._selector.close()

    def _accept(self) -> list[Peer]:
        joined: list[Peer] = []
        assert self._listener is not None
        with contextlib.suppress(BlockingIOError):
            while True:
                joined.append(Peer(self._listener.accept()[0], self._selector))
        self._all += joined
        return joined

    def _heard(self, peer: Peer) -> list[tuple[Peer, Order | PeerEvent]]:
        try:
            return [(peer, order) for order in peer.orders()]
        except EOFError:
            self._all.remove(peer)
            peer.close()
            return [(peer, PeerEvent.LEFT)]
