"""The engine's loop around a loaded model: orders in, tokens out.

It serves one end of a socket until the gateway closes the other, in a thread of the gateway, or as
``python -m proxy.backends.chatglm.engine`` with the socket as standard input. Linux is asked to end
that process with the gateway even during the evaluation of a prompt, which may take minutes without
running any other Python.

It runs one generation at a time. Between two tokens it checks for new orders: a Cancel ends the
generation, a small order is answered immediately, another generation waits its turn.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from ...runtime.leash import end_with_parent
from . import protocol

# The model in the library. Nothing else uses chatglm_cpp, of which it needs 0.4, and uses it one
# level below `Pipeline.chat`, which silently truncates prompts at 512 tokens, has no exact counts,
# and loses spaces while it streams.

# A length that the library does not truncate. Its lengths are C ints, and some are added to.
UNCUT = 1 << 30
FAMILIES: dict[str, protocol.Family] = {
    "CHATGLM": "chatglm",
    "CHATGLM2": "chatglm2",
    "CHATGLM3": "chatglm3",
    "CHATGLM4": "glm-4",
}
# These families name a role before each message; the older two number question and answer rounds.
ROLES = ("chatglm3", "glm-4")
HEADER = "<|assistant|>"


# The exceptions that pybind creates from the library's.
FAULTS = (RuntimeError, ValueError, IndexError, OverflowError, MemoryError)


class Unknown(Exception):
    """Token ids that this model does not have."""


class ChatGlmModel:
    """A loaded model. Its methods raise FAULTS if the library fails."""

    def __init__(self, path: str, n_ctx: int = 0) -> None:
        import chatglm_cpp

        self._library: Any = chatglm_cpp
        self.version: str = chatglm_cpp.__version__
        pipeline = chatglm_cpp.Pipeline(path)
        own = pipeline.model.config.max_length
        if 0 < n_ctx < own:  # which needs less memory
            pipeline = chatglm_cpp.Pipeline(path, max_length=n_ctx)
        self._pipeline = pipeline  # owns the model and the tokenizer
        self._model: Any = pipeline.model
        self._tokenizer: Any = pipeline.tokenizer
        config: Any = pipeline.model.config
        self.n_ctx: int = min(own, n_ctx or own)
        self.vocabulary: int = config.vocab_size
        name = config.model_type.name
        if name not in FAMILIES:
            raise RuntimeError(f"unsupported model type: {name}")
        self.family = FAMILIES[name]
        self._template: Callable[[Any, int], list[int]] = self._tokenizer.apply_chat_template
        self._ends = {config.eos_token_id, *config.extra_eos_token_ids}
        self._prefix: list[int] = self._tokenizer.encode("", UNCUT)
        roles = ("system", "user", "assistant", "observation") if self.family in ROLES else ()
        self._roles = {role: self._one(role, "")[0] for role in roles}
        self.header = self._roles.get("assistant", -1)  # begins an assistant's turn
        # In ChatGLM2 and later, marks have ids after the text's, "[MASK]" and "[gMASK]" first; even
        # larger ids are other marks or padding of the matrix.
        marks = {"chatglm2": 1, "chatglm3": 1, "glm-4": 2}.get(self.family)
        self._text_end = self.vocabulary if marks is None else self._prefix[0] - marks

    def encode(self, prompt: protocol.PromptMessage) -> list[int]:
        """All token ids of a prompt. Raises Unknown."""
        if prompt.ids is not None:
            ids = list(prompt.ids)
            if not all(0 <= token < self.vocabulary for token in ids):
                raise Unknown
        elif prompt.text is not None:
            ids = self._tokenizer.encode(prompt.text, UNCUT)
        else:
            ids = self._chat(prompt.turns)
        for text in prompt.opening:
            ids += self.plain(text)
        if prompt.begun:
            whole = self._one("assistant", prompt.begun)[1:] if self._roles else None
            ids += self.plain(prompt.begun) if whole is None else whole
        return ids

    def plain(self, text: str) -> list[int]:
        """The ids of a text without marks."""
        ids: list[int] = self._tokenizer.encode(text, UNCUT)
        # ChatGLM puts its marks after the text, the other families before it.
        return ids[: -len(self._prefix)] if self.family == "chatglm" else ids[len(self._prefix) :]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids. Marks have none; bytes of invalid UTF-8 become U+FFFD."""
        tokens = [token for token in ids if 0 <= token < self._text_end]
        if not tokens:
            return ""
        try:
            text: str = self._tokenizer.decode(tokens)
        except UnicodeDecodeError as error:
            return error.object.decode("utf-8", "replace")
        return text

    def sampler(self, request: protocol.Generate) -> Callable[[list[int], int, int], int]:
        """Returns `(ids, n_past, n_prompt) -> the next id`, which evaluates all ids from `n_past`
        on. Only one sampler may be in use at a time."""
        settings: dict[str, Any] = {
            "max_length": self.n_ctx,
            "max_context_length": self.n_ctx,
            "do_sample": request.temperature > 0,
            "top_k": request.top_k,
            "top_p": request.top_p,
            "temperature": request.temperature or 1.0,
            "repetition_penalty": request.repeat_penalty,
        }
        config = self._library._C.GenerationConfig(**settings)
        following = self._model.generate_next_token
        return lambda ids, past, prompt: int(following(ids, None, config, past, prompt))

    def ends(self, token: int) -> bool:
        return token in self._ends

    def _chat(self, turns: Sequence[protocol.ChatTurn]) -> list[int]:
        if not any(turn.head for turn in turns):
            return self._template([self._message(t.role, t.content) for t in turns], UNCUT)
        # The library's template cannot add the name of a called tool, which the family writes where
        # other turns have an empty line. So turns are assembled one by one here.
        ids = list(self._prefix)
        for turn in turns:
            if turn.head:
                ids += [self._roles[turn.role], *self.plain(f"{turn.head}\n")]
                ids += self.plain(turn.content)
            else:
                ids += self._one(turn.role, turn.content)
        return [*ids, self._roles["assistant"]]

    def _one(self, role: str, content: str) -> list[int]:
        """The ids of a turn, without the marks around the conversation."""
        ids = self._template([self._message(role, content)], UNCUT)
        return ids[len(self._prefix) : -1]

    def _message(self, role: str, content: str) -> Any:
        return self._library.ChatMessage(role=role, content=content)


# The loop.

UNSURE = (",", "!", ":", ";", "?")  # marks that the oldest families may still make Chinese
Open = Callable[[str, int], ChatGlmModel]
Send = Callable[[protocol.Report], object]


class Orders:
    """Reads orders from a socket. `select` is Python's own, unpatched."""

    def __init__(self, sock: socket.socket, select: Callable[..., Any]) -> None:
        self._sock, self._select = sock, select
        self._data = b""

    def line(self) -> bytes:
        """Wait for the next line. Raises EOFError."""
        while b"\n" not in self._data:
            data = self._sock.recv(1 << 16)
            if not data:
                raise EOFError
            self._data += data
        first, _, self._data = self._data.partition(b"\n")
        return first

    def get(self) -> protocol.Order:
        """Wait for the next order. Raises EOFError once there are no more."""
        return protocol.read_order(self.line())

    def empty(self) -> bool:
        return b"\n" not in self._data and not self._select([self._sock], [], [], 0)[0]


def serve(load: protocol.Load, orders: Orders, send: Send, open_model: Open = ChatGlmModel) -> None:
    """Load the model and execute orders. Returns if it cannot be loaded."""
    try:
        model = open_model(load.path, load.n_ctx)
    except (*FAULTS, OSError, ImportError) as error:
        send(protocol.Broken(f"{type(error).__name__}: {error}"))
        return
    send(protocol.Ready(model.family, model.n_ctx, model.version))
    _Loop(model, orders, send).run()


class _Loop:
    def __init__(self, model: ChatGlmModel, orders: Orders, send: Send) -> None:
        self._model = model
        self._orders = orders
        self._send = send
        self._waiting: deque[protocol.Generate] = deque()
        self._cancelled: set[int] = set()

    def run(self) -> None:
        while True:
            while not self._waiting:
                self._take(self._orders.get())
            request = self._waiting.popleft()
            self._cancelled = {number for number in self._cancelled if number >= request.id}
            with self._refusing(request.id):
                self._generate(request)

    @contextlib.contextmanager
    def _refusing(self, number: int) -> Iterator[None]:
        try:
            yield
        except Unknown:
            self._send(protocol.Refused(number, "tokens"))
        except FAULTS as error:
            self._send(protocol.Refused(number, "fault", str(error)))

    def _take(self, order: protocol.Order) -> None:
        if isinstance(order, protocol.Generate):
            self._waiting.append(order)
        elif isinstance(order, protocol.CancelMessage):
            self._cancelled.add(order.id)
        else:
            with self._refusing(order.id):
                self._send(self._converted(order))

    def _converted(self, order: protocol.Small) -> protocol.Converted:
        model = self._model
        if isinstance(order, protocol.Decode):
            if not all(0 <= token < model.vocabulary for token in order.ids):
                raise Unknown
            return protocol.Converted(order.id, text=model.decode(order.ids))
        plain = order.plain and order.prompt.text is not None
        ids = model.plain(order.prompt.text or "") if plain else model.encode(order.prompt)
        return protocol.Converted(order.id, tuple(ids))

    def _generate(self, request: protocol.Generate) -> None:
        """Send the text of an answer as it comes, and its end if it is not cancelled before."""
        if request.id in self._cancelled:
            return
        model, send = self._model, self._send
        ids = model.encode(request.prompt)
        n_prompt = len(ids)
        left = model.n_ctx - n_prompt
        if left <= 0 or not ids:
            send(protocol.Refused(request.id, "context", "", n_prompt, model.n_ctx))
            return
        send(protocol.Began(request.id, n_prompt))
        limit = left if request.max_tokens is None else min(request.max_tokens, left)
        following = model.sampler(request)
        unsure = UNSURE if model.family in ("chatglm", "chatglm2") else ()
        text = Incremental(model.decode, unsure, ids[-1:] if request.prompt.begun else ())
        reason: Literal["stop", "length"] = "length"
        began = first = time.perf_counter()
        count = 0
        while count < limit:
            token = following(ids, len(ids) - 1 if count else 0, n_prompt)
            count += 1
            if count == 1:
                first = time.perf_counter()
            if model.ends(token):
                reason = "stop"
                break
            ids.append(token)
            if request.marks and token == model.header:
                piece = text.close() + HEADER
            else:
                piece = text.add(token)
            if piece:
                send(protocol.Delta(request.id, piece, count))
            while not self._orders.empty():
                self._take(self._orders.get())
            if request.id in self._cancelled:
                return
        if rest := text.close():
            send(protocol.Delta(request.id, rest, count))
        now = time.perf_counter()
        send(protocol.Done(request.id, reason, count, 1000 * (first - began), 1000 * (now - first)))


PARTIAL = "\N{REPLACEMENT CHARACTER}"
LONGEST = 3  # bytes of an incomplete character, at most
MOST_HELD = 256  # tokens that are decoded again with each new one, where bytes make no character


class Incremental:
    """Turns token ids into text as they come, without losing a space or splitting a character.

    A token's text depends on the one before it, so the last token that was converted is decoded
    again with the new ones. Text that may still change is held back: a character without all its
    bytes, and in the oldest families a mark (`unsure`), which becomes Chinese if a Chinese
    character follows. `before` is the last token of a text to continue from."""

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


def serve_socket(
    sock: socket.socket, select: Callable[..., Any], open_model: Open = ChatGlmModel
) -> None:
    """Serve the other end of a socket until it is closed. The first line says what to load."""
    sock.setblocking(True)
    orders = Orders(sock, select)
    with sock, contextlib.suppress(EOFError, OSError):
        load = protocol.read_load(orders.line())
        serve(load, orders, lambda report: sock.sendall(protocol.line(report)), open_model)


POLITE = 5


def main() -> None:
    end_with_parent()
    with contextlib.suppress(OSError):
        os.nice(POLITE)
    serve_socket(socket.socket(fileno=0), select.select)


if __name__ == "__main__":
    main()
