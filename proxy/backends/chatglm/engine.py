"""The loop around a loaded model: orders in, tokens out. Runs in the child process, or in a thread.

One generation at a time. Between two tokens it looks whether something came: a Cancel, or the end
of the connection that asked, ends the generation; a small question is answered at once, another
generation waits its turn. When nobody is connected any more, `serve` returns.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from .library import FAULTS, HEADER, Model, Unknown
from .peers import Alone, Event, Peer, Peers
from .protocol import (
    Began,
    Broken,
    Bye,
    Cancel,
    Decode,
    Decoded,
    Delta,
    Done,
    Encode,
    Encoded,
    Generate,
    Load,
    Order,
    Reading,
    Ready,
    Refused,
    Report,
)
from .text import Incremental

CHUNK = 8 << 20  # bytes of the model file read at once
LEAST = 0.5  # seconds a model stays: who asked for it must be able to use it
UNSURE = (",", "!", ":", ";", "?")  # what the oldest families may still make Chinese
Open = Callable[[str, int], Model]


def serve(peers: Peers, load: Load, open_model: Open = Model) -> None:
    """Serve who is connected, until nobody is or the model was not used for long."""
    try:
        try:
            _warm(peers, load.path)
            model = open_model(load.path, load.n_ctx)
        except (*FAULTS, OSError, ImportError) as error:
            peers.farewell(Broken(f"{type(error).__name__}: {error}"))
            return
        _Loop(peers, model, load.idle).run()
        peers.farewell(Bye())
    except Alone:
        return
    finally:
        peers.close()


def _warm(peers: Peers, path: str) -> None:
    """Read the file once: the library only maps it, so this is where the time of a large model
    goes, and here it can be told how far it is."""
    total = os.path.getsize(path)
    done = 0
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(min(CHUNK, max(total, 1)))
        while read := file.readinto(buffer):
            done += read
            peers.receive(0)  # who joins or leaves; nobody orders before it is ready
            peers.tell(Reading(done, total))


class _Loop:
    def __init__(self, peers: Peers, model: Model, idle: float) -> None:
        self._peers = peers
        self._model = model
        self._idle = max(idle, LEAST) if idle else None
        self._waiting: deque[tuple[Peer, Generate]] = deque()
        self._running: tuple[Peer, int] | None = None
        self._cancelled = False
        self._ready = Ready(model.family, model.n_ctx, model.vocabulary, model.version, os.getpid())

    def run(self) -> None:
        """Until it was not used for long. Raises Alone."""
        self._peers.tell(self._ready)
        while came := self._peers.receive(self._idle):
            for peer, what in came:
                self._take(peer, what)
            while self._waiting:
                self._generate(*self._waiting.popleft())

    def _take(self, peer: Peer, what: Order | Event) -> None:
        if isinstance(what, Generate):
            self._waiting.append((peer, what))
        elif isinstance(what, Cancel):
            self._cancel(peer, what.id)
        elif isinstance(what, (Encode, Decode)):
            peer.send(self._answered(what))
        elif what is Event.JOINED:
            peer.send(self._ready)
        else:
            self._waiting = deque(one for one in self._waiting if one[0] is not peer)
            if self._running is not None and self._running[0] is peer:
                self._cancelled = True

    def _cancel(self, peer: Peer, number: int) -> None:
        if self._running == (peer, number):
            self._cancelled = True
        for one in [one for one in self._waiting if (one[0], one[1].id) == (peer, number)]:
            self._waiting.remove(one)
            peer.send(Done(number, "cancelled", 0, 0.0, 0.0))

    def _answered(self, order: Encode | Decode) -> Report:
        model = self._model
        try:
            if isinstance(order, Decode):
                if not all(0 <= one < model.vocabulary for one in order.ids):
                    raise Unknown
                return Decoded(order.id, model.decode(order.ids))
            plain = order.plain and order.prompt.text is not None
            ids = model.plain(order.prompt.text or "") if plain else model.encode(order.prompt)
            return Encoded(order.id, tuple(ids))
        except Unknown:
            return Refused(order.id, "tokens")
        except FAULTS as error:
            return Refused(order.id, "fault", str(error))

    def _generate(self, peer: Peer, wanted: Generate) -> None:
        model = self._model
        try:
            ids = model.encode(wanted.prompt)
        except Unknown:
            peer.send(Refused(wanted.id, "tokens"))
            return
        except FAULTS as error:
            peer.send(Refused(wanted.id, "fault", str(error)))
            return
        n_prompt = len(ids)
        if n_prompt >= model.n_ctx or not ids:
            peer.send(Refused(wanted.id, "context", "", n_prompt, model.n_ctx))
            return
        peer.send(Began(wanted.id, n_prompt))
        self._running, self._cancelled = (peer, wanted.id), False
        try:
            peer.send(self._tokens(peer, wanted, ids))
        except FAULTS as error:
            peer.send(Refused(wanted.id, "fault", str(error)))
        finally:
            self._running = None

    def _tokens(self, peer: Peer, wanted: Generate, ids: list[int]) -> Done:
        """Generate, sending the text as it comes; `ids` grows by the answer."""
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
            for one, what in self._peers.receive(0):
                self._take(one, what)
            if self._cancelled:
                reason = "cancelled"
                break
        if rest := text.close():
            send(Delta(wanted.id, rest, count))
        now = time.perf_counter()
        prompt_ms, predicted_ms = 1000 * (first - began), 1000 * (now - first)
        return Done(wanted.id, reason, count, prompt_ms, predicted_ms)
