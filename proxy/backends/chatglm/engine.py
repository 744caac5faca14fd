"""The engine's loop around a loaded model: orders in, tokens out. In the child, or in a thread.

It runs one generation at a time. Between two tokens it checks for new orders: a Cancel, or the end
of the connection that asked, ends the generation; a small order is answered immediately, another
generation waits its turn. When the last connection has closed, `serve` returns.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from .library import FAULTS, HEADER, ChatGlmModel, Unknown
from .protocol import (
    Began,
    Broken,
    ByeMessage,
    CancelMessage,
    Decode,
    Decoded,
    Delta,
    DoneMessage,
    Encode,
    Encoded,
    Generate,
    Load,
    Order,
    ReadingMessage,
    Ready,
    RefusedMessage,
    Report,
)
from .server_socket import Alone, Peer, PeerEvent, Peers

# Turns token ids into text as they come, without losing a space or splitting a character.
#
# A token's text depends on the one before it (sentencepiece drops a leading space), so the last
# token that was converted is decoded again with the new ones, and the difference is the new text.
# Text that may still change is held back: a character without all its bytes, and in the oldest
# families a punctuation mark, which becomes Chinese if a Chinese character follows.
PARTIAL = "\N{REPLACEMENT CHARACTER}"
LONGEST = 3  # bytes of an incomplete character, at most
MOST_HELD = 256  # tokens that are decoded again with each new one, where bytes make no character


class Incremental:
    """`decode` converts ids to text; `unsure` are marks to hold back at the end. `before` is the
    last token of a text to continue from."""

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        unsure: tuple[str, ...] = (),
        before: Sequence[int] = (),
    ) -> None:
        self._decode = decode
        self._unsure = unsure
        self._ids: list[int] = list(before)
        self._known = len(self._ids)  # the number of these ids whose text was returned
        self._sent = 0  # characters returned of the ids after those

    def add(self, token: int) -> str:
        """Add a token. Returns the text that is now certain."""
        self._ids.append(token)
        text = self._new()
        if text.endswith(PARTIAL) and len(self._ids) - self._known < MOST_HELD:
            # Of many invalid bytes, only the last ones can still begin a character.
            certain = text[:-LONGEST] if text.endswith(PARTIAL * (LONGEST + 1)) else ""
            self._sent += len(certain)
            return certain
        if text.endswith(self._unsure) or not text:
            return ""
        del self._ids[: self._known]
        self._known, self._sent = len(self._ids), 0
        return text

    def close(self) -> str:
        """The text held back, at the end."""
        text = self._new()
        self._ids, self._known, self._sent = [], 0, 0
        return text

    def _new(self) -> str:
        before = self._decode(self._ids[: self._known]) if self._known else ""
        text = self._decode(self._ids) if self._ids else ""
        return text[len(before) + self._sent :]


CHUNK = 8 << 20  # bytes of the model file read at once
LEAST = 0.5  # seconds that a model stays loaded, so that the request that loaded it can use it
UNSURE = (",", "!", ":", ";", "?")  # marks that the oldest families may still make Chinese
Open = Callable[[str, int], ChatGlmModel]


def serve(peers: Peers, load: Load, open_model: Open = ChatGlmModel) -> None:
    """Serve connections until the last one has closed or the model was idle for too long."""
    try:
        try:
            _warm(peers, load.path)
            model = open_model(load.path, load.n_ctx)
        except (*FAULTS, OSError, ImportError) as error:
            peers.farewell(Broken(f"{type(error).__name__}: {error}"))
            return
        _Loop(peers, model, load.idle).run()
        peers.farewell(ByeMessage())
    except Alone:
        return
    finally:
        peers.close()


def _warm(peers: Peers, path: str) -> None:
    """Read the file once. The library only maps it, so this takes the time of loading a large
    model, and its progress can be reported here."""
    total = os.path.getsize(path)
    done = 0
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(min(CHUNK, max(total, 1)))
        while read := file.readinto(buffer):
            done += read
            peers.receive(0)  # connects and disconnects; there are no orders before it is ready
            peers.tell(ReadingMessage(done, total))


@contextlib.contextmanager
def _refusing(peer: Peer, number: int) -> Iterator[None]:
    """Refuse an order that the model cannot do."""
    try:
        yield
    except Unknown:
        peer.send(RefusedMessage(number, "tokens"))
    except FAULTS as error:
        peer.send(RefusedMessage(number, "fault", str(error)))


class _Loop:
    def __init__(self, peers: Peers, model: ChatGlmModel, idle: float) -> None:
        self._peers = peers
        self._model = model
        self._idle = max(idle, LEAST) if idle else None
        self._waiting: deque[tuple[Peer, Generate]] = deque()
        self._running: tuple[Peer, int] | None = None
        self._cancelled = False
        self._ready = Ready(model.family, model.n_ctx, model.vocabulary, model.version, os.getpid())

    def run(self) -> None:
        """Run until the model was idle for too long. Raises Alone."""
        self._peers.tell(self._ready)
        while events := self._peers.receive(self._idle):
            for peer, event in events:
                self._take(peer, event)
            while self._waiting:
                peer, wanted = self._waiting.popleft()
                with _refusing(peer, wanted.id):
                    self._generate(peer, wanted)

    def _take(self, peer: Peer, event: Order | PeerEvent) -> None:
        if isinstance(event, Generate):
            self._waiting.append((peer, event))
        elif isinstance(event, CancelMessage):
            self._cancel(peer, event.id)
        elif isinstance(event, (Encode, Decode)):
            with _refusing(peer, event.id):
                peer.send(self._answered(event))
        elif event is PeerEvent.JOINED:
            peer.send(self._ready)
        else:
            self._waiting = deque(entry for entry in self._waiting if entry[0] is not peer)
            if self._running is not None and self._running[0] is peer:
                self._cancelled = True

    def _cancel(self, peer: Peer, number: int) -> None:
        if self._running == (peer, number):
            self._cancelled = True
        for entry in [e for e in self._waiting if (e[0], e[1].id) == (peer, number)]:
            self._waiting.remove(entry)
            peer.send(DoneMessage(number, "cancelled", 0, 0.0, 0.0))

    def _answered(self, order: Encode | Decode) -> Report:
        model = self._model
        if isinstance(order, Decode):
            if not all(0 <= token < model.vocabulary for token in order.ids):
                raise Unknown
            return Decoded(order.id, model.decode(order.ids))
        plain = order.plain and order.prompt.text is not None
        ids = model.plain(order.prompt.text or "") if plain else model.encode(order.prompt)
        return Encoded(order.id, tuple(ids))

    def _generate(self, peer: Peer, wanted: Generate) -> None:
        model = self._model
        ids = model.encode(wanted.prompt)
        n_prompt = len(ids)
        if n_prompt >= model.n_ctx or not ids:
            peer.send(RefusedMessage(wanted.id, "context", "", n_prompt, model.n_ctx))
            return
        peer.send(Began(wanted.id, n_prompt))
        self._running, self._cancelled = (peer, wanted.id), False
        try:
            peer.send(self._tokens(peer, wanted, ids))
        finally:
            self._running = None

    def _tokens(self, peer: Peer, wanted: Generate, ids: list[int]) -> DoneMessage:
        """Generate, and send the text as it comes. Appends the answer's ids to `ids`."""
        model, send = self._model, peer.send
        n_prompt = len(ids)
        left = model.n_ctx - n_prompt
        limit = left if wanted.max_tokens is None else min(wanted.max_tokens, left)
        following = model.sampler(wanted)
        unsure = UNSURE if model.family in ("chatglm", "chatglm2") else ()
        text = Incremental(model.decode, unsure, ids[-1:] if wanted.prompt.begun else ())
        reason: Literal["stop", "length", "cancelled"] = "length"
        began = first = time.perf_counter()
        count = 0
        while count < limit:
            token = following(ids, n_prompt + count - 1 if count else 0, n_prompt)
            count += 1
            if count == 1:
                first = time.perf_counter()
            if model.ends(token):
                reason = "stop"
                break
            ids.append(token)
            if wanted.marks and model.is_header(token):
                piece = text.close() + HEADER
            else:
                piece = text.add(token)
            if piece:
                send(Delta(wanted.id, piece, count))
            for sender, event in self._peers.receive(0):
                self._take(sender, event)
            if self._cancelled:
                reason = "cancelled"
                break
        if rest := text.close():
            send(Delta(wanted.id, rest, count))
        now = time.perf_counter()
        prompt_ms, predicted_ms = 1000 * (first - began), 1000 * (now - first)
        return DoneMessage(wanted.id, reason, count, prompt_ms, predicted_ms)
