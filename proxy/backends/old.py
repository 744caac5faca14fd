"""What only servers of 2023 need: they report neither their slots, threads and vocabulary nor how
they batch, and tokenize each prompt anew."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack

from msgspec import Struct

from ..core.cache import digest
from ..errors import BackendBusy, BadRequest, GatewayError, Unsupported
from .driver import Capabilities, Driver
from .http import ConnectionPool
from .probe import PROMPT

NOTHING = {"prompt": "", "n_predict": 1, "cache_prompt": True}  # evaluates nothing

STEP = 1024
MOST = STEP * STEP  # ids; larger than any vocabulary

Existing = Callable[[Sequence[int]], set[int]]


class Vocabulary:
    """The size of the vocabulary of the model behind one backend: a token id outside of it crashes
    an old server.

    A new server reports it in /v1/models. An old one reveals it: in the settings at the end of an
    answer, it repeats those pairs of `logit_bias` whose ids exist. Two answers to an empty prompt
    give the exact number, even if the last ids are control tokens, which /detokenize cannot show.
    They are requested when the first ids come, and cached until the backend is probed again."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._lock = threading.Lock()
        self._size: int | None = 0

    def size(self, caps: Capabilities) -> int | None:
        """The number of token ids, 0 if unknown, None if it does not matter. Raises like
        `Driver.n_vocab`."""
        if caps.n_vocab or caps.queues:
            return caps.n_vocab or None
        with self._lock:
            if not self._size:
                self._size = self._driver.n_vocab()
            return self._size

    def clear(self) -> None:
        """Forget the size, because the backend may have another model now."""
        self._size = 0

    def check(self, ids: Collection[int], caps: Capabilities, param: str) -> None:
        """Raises BadRequest for an id outside of the vocabulary, Unsupported if the size of an old
        backend's vocabulary is unknown, and the errors of `size`."""
        if not ids:
            return
        size = self.size(caps)
        if size:
            within(ids, size, param)
        elif size is not None:
            raise Unsupported(
                "this model's backend does not report its vocabulary, so token ids cannot be"
                " checked: send text",
                param=param,
            )

    def check_harmless(self, ids: Collection[int], caps: Capabilities, param: str) -> None:
        """Like `check`, for a use that survives a wrong id: passes if the size is unknown."""
        try:
            self.check(ids, caps, param)
        except (BackendBusy, Unsupported):
            return


def within(ids: Iterable[int], size: int, param: str) -> None:
    """Raises BadRequest for the first id outside of a vocabulary of `size` ids."""
    wrong = next((token for token in ids if not 0 <= token < size), None)
    if wrong is not None:
        raise BadRequest(
            f"{param} contains the token id {wrong}: this model's ids are 0 to {size - 1}",
            param=param,
        )


def counted(existing: Existing) -> int:
    """The number of ids. `existing` returns those ids of a collection that exist, and may raise. 0
    if its answers are not plausible."""
    coarse = existing(range(0, MOST, STEP)).intersection(range(0, MOST, STEP))
    if not coarse or MOST - STEP in coarse:
        return 0  # a server that repeats every id reveals nothing
    top = max(coarse)
    return (
        max(existing(range(top, top + STEP)).intersection(range(top, top + STEP)), default=-1) + 1
    )


# -- slots -----------------------------------------------------------------------------------------

MOST_SLOTS = 256

AskSlot = Callable[[int], "int | None"]
"""The id of the slot that answers a request for this one; None when none answers in time."""


def count_slots(ask: AskSlot) -> tuple[int, bool]:
    """The number of slots, and whether each of them was seen idle. If not, somebody else uses the
    server, and there may be more. 0 if the server does not answer or names slots beyond MOST_SLOTS.

    An old server answers a request with an empty prompt immediately: it evaluates nothing, and the
    slot's content stays. The answer names the slot: the requested one if it exists and is idle,
    otherwise the least recently used idle one. So every answer proves that its slot exists, and
    with it all lower numbers. The next number is requested until it was missed so often that every
    idle slot has had its turn. Other clients of the server, also ones that count, take turns but
    disprove nothing; only if they hold the last slots all the time is the count too small.

    Asks twice for each slot and once more, and stops at the first request without an answer."""
    seen: set[int] = set()
    count = missed = 0
    while missed <= count:
        slot = ask(count)
        if slot is None or not 0 <= slot < MOST_SLOTS:
            return 0, False
        seen.add(slot)
        if slot >= count:
            count, missed = slot + 1, 0
        else:
            missed += 1
    return count, len(seen) == count


# -- threads ---------------------------------------------------------------------------------------

LEAST_THREADS = 8
ANSWER_WAIT = 1.0  # seconds for an answer, which takes a millisecond
KEPT_SECONDS = 4.0  # seconds in which the first connection certainly still holds its thread


def count_threads(connect: Callable[..., ConnectionPool], most: int) -> int:
    """The number of threads, `most` if there may be more: an old server answers no more requests at
    once, whatever its slots. Other programs that use the server meanwhile make it too small.

    A server of 2023 has as many threads as its machine has cores, less one, and at least eight. A
    connection holds one of them, also for the five seconds in which it waits for a next request. So
    connections are opened one after the other and kept, until one gets no answer."""
    end = time.monotonic() + KEPT_SECONDS
    with ExitStack() as stack:
        for count in range(most):
            pool = connect(idle=1)
            stack.callback(pool.close)
            try:
                pool.ask("GET", "/props", timeout=ANSWER_WAIT)
            except GatewayError:
                return max(LEAST_THREADS, count)
            if time.monotonic() > end:
                break
    return most


# -- continuous batching (-cb) --------------------------------------------------------------------

BATCHING_TRIES = 3
BATCHING_TOKENS = 16384  # a small model writes 1 000 while a busy machine lets us read the first
ENOUGH = 10  # tokens without an answer …
LONG = 0.5  # … in so many seconds
FEW = BATCHING_TOKENS // 4  # tokens that even a fast model writes until the answer is noticed
IDLE = 3.0  # seconds in which an idle server answers
FREED = 0.02  # seconds; a slot is free about 5 ms after its answer


def answers_meanwhile(pool: ConnectionPool, patience: float) -> bool | None:
    """Whether the server has continuous batching. None if that stays unknown: it is busy, or too
    slow for `patience` seconds, or the generation ended too soon.

    Without it, a request that arrives while another one runs waits until that one is done. So one
    request generates tokens, and an empty prompt is sent meanwhile. With -cb it is answered within
    a few tokens, without it after the last one, which a small model writes soon. The first request
    is cut off once that is known. A busy server is left alone: an empty prompt before tells, since
    an idle one answers it at once.

    On a busy machine the empty prompt itself may be late. So its early answer is proof, but that it
    is missing counts only if it is missing every time."""
    end = time.monotonic() + patience
    answer: bool | None = None
    for _ in range(BATCHING_TRIES):
        answer = _answered_early(pool, end)
        if answer is not False:
            break
    return answer


def _answered_early(pool: ConnectionPool, end: float) -> bool | None:
    patience = end - time.monotonic()
    if patience <= 0 or not _is_idle(pool, min(IDLE, patience)):
        return None
    body = {"prompt": PROMPT, "n_predict": BATCHING_TOKENS, "stream": True, "ignore_eos": True}
    answered = threading.Event()
    asking = threading.Thread(target=_ask_nothing, args=(pool, patience, answered), daemon=True)
    try:
        exchange = pool.send("POST", "/completion", body, tick=0.02, patience=patience, short=True)
        try:
            tokens, sent = 0, 0.0
            while (now := time.monotonic()) < end:
                data = exchange.read()
                if data == b"":
                    return False if tokens >= FEW else None
                if data and exchange.status != 200:
                    return None
                tokens += data.count(b"data:") if data else 0
                if tokens and not sent:
                    tokens, sent = 0, now
                    asking.start()
                elif sent and answered.is_set():
                    return tokens < FEW
                elif sent and tokens >= ENOUGH and now > sent + LONG:
                    return False
        finally:
            exchange.close()
    except GatewayError:
        pass
    finally:
        if asking.ident is not None:
            asking.join(max(IDLE, end - time.monotonic()))
    return None


def _is_idle(pool: ConnectionPool, patience: float) -> bool:
    end = time.monotonic() + patience
    while (left := end - time.monotonic()) > 0:
        if _answers_nothing(pool, left):
            return True
        time.sleep(FREED)
    return False


def _ask_nothing(pool: ConnectionPool, patience: float, answered: threading.Event) -> None:
    if _answers_nothing(pool, patience):
        answered.set()


def _answers_nothing(pool: ConnectionPool, patience: float) -> bool:
    try:
        return pool.ask("POST", "/completion", NOTHING, patience, short=True)[0] == 200
    except GatewayError:
        return False


# -- prompts in the tokens that a slot holds -------------------------------------------------------

HELD_SLOTS = 4096  # whose tokens are kept
LONGEST_TEXT = 8192  # characters of an answer and the text behind it

Tokenize = Callable[[str], list[int]]
Detokenize = Callable[[list[int]], str]
Joins = Callable[[list[str]], bool]


class HeldPrompt(Struct, frozen=True):
    """How a prompt is sent: its first `first` characters as text, the rest as `ids`. With ids, it
    has `tokens` in all."""

    first: int
    ids: list[int] = []
    tokens: int = 0


class _Held(Struct, frozen=True):
    """A slot's prompt: `size` characters and breaks with this digest, and how it was sent. It had
    `tokens`; the answer came in `pieces`."""

    size: int
    key: bytes
    sent: HeldPrompt
    tokens: int
    pieces: list[str]


class HeldTokens:
    """Keeps conversations in the tokens that the slots of one server hold.

    A server of 2023 tokenizes the whole text of each prompt. The answer in it often gets other
    tokens than the model wrote (two line feeds instead of a double one), and everything behind the
    first difference is evaluated again. The server's stream does not tell ids, but each of its
    pieces is the text of one token. So the next prompt of the conversation is sent as the text of
    its first turn and the ids of what follows: each piece tokenized by itself, and the new text.
    Only the answer and the new text are tokenized, in one call, with a mark of the template between
    the pieces. A text goes to the server as it is if its tokens do not differ, or if anything about
    them is in doubt."""

    def __init__(self, tokenize: Tokenize, detokenize: Detokenize) -> None:
        self._tokenize = tokenize
        self._detokenize = detokenize
        self._held: dict[int, _Held] = {}

    def ended(
        self,
        slot: int,
        text: str,
        breaks: Sequence[int],
        sent: HeldPrompt,
        *,
        tokens: int,
        pieces: list[str],
    ) -> None:
        """Record a complete answer to a prompt of so many tokens."""
        if 0 <= slot < HELD_SLOTS and pieces:
            self._held[slot] = _Held(len(text), _key(text, breaks), sent, tokens, pieces)

    def prompt(
        self,
        slot: int,
        text: str,
        breaks: Sequence[int],
        marks: Sequence[str],
        *,
        room: int,
        joins: Joins,
    ) -> HeldPrompt:
        """How to send a prompt to this slot, with at most `room` tokens if some are sent as ids.
        Raises the errors of `tokenize` and `detokenize`.

        Later servers answer each part of a prompt by itself. `joins` tells if this one does not,
        by the first two parts of what the slot holds."""
        held = self._held.pop(slot, None)  # it will hold this prompt
        whole_text = HeldPrompt(len(text))
        if held is None or not held.size < len(text) <= held.size + LONGEST_TEXT:
            return whole_text
        if _key(text[: held.size], [at for at in breaks if at < held.size]) != held.key:
            return whole_text
        at, pieces = held.size, []
        for piece in held.pieces:
            if not text.startswith(piece, at):
                break
            pieces.append(piece)
            at += len(piece)
        answer, rest = text[held.size : at], text[at:]
        mark = next((mark for mark in marks if mark not in answer and self._is_token(mark)), "")
        if not (answer and rest and mark) or any(place >= at for place in breaks):
            return whole_text
        parts = self._split(mark, pieces, rest)
        if parts is None:
            return whole_text
        written, new = list(itertools.chain(*parts[:-1])), parts[-1]
        whole = self._tokenize(mark + answer)[1:]
        if written == whole and not held.sent.ids:
            return whole_text
        tokens = held.tokens + len(written) + len(new)
        if tokens > room or self._detokenize(written) != answer:
            return whole_text
        if not joins([text[: held.size], pieces[0]]):
            return whole_text
        return HeldPrompt(held.sent.first, [*held.sent.ids, *written, *new], tokens)

    def _is_token(self, mark: str) -> bool:
        return len(self._tokenize(mark)) == 1

    def _split(self, mark: str, pieces: list[str], rest: str) -> list[list[int]] | None:
        """The ids of each piece and of the rest. None if they cannot be separated."""
        ids = self._tokenize(mark + mark.join((*pieces, rest)))
        if not ids:
            return None
        between = ids[0]
        places = [place for place, token in enumerate(ids) if token == between][: len(pieces) + 1]
        if len(places) <= len(pieces):
            return None
        parts = [ids[a + 1 : b] for a, b in itertools.pairwise(places)]
        return [*parts, ids[places[-1] + 1 :]] if all(parts) else None


def _key(text: str, breaks: Sequence[int]) -> bytes:
    places = "".join(f"\0{at}" for at in breaks)
    return digest((text + places).encode("utf-8", "surrogatepass"))
