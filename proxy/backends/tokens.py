"""How many tokens a prompt has, asked of the backend only when it matters.

A token stands for at least one byte, so the length in bytes bounds the count from above; most
prompts fit by that alone. A long text is tokenized in pieces (see `pieces`), in order: a prompt
that exceeds the context is known to after about as many tokens as the context holds, and nothing
goes on for a client that has left. What is asked is remembered, a bounded number of texts by their
hash.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator

from msgspec import Struct

from ..cancel import Cancel
from ..core.task import Task
from ..errors import BadRequest, Cancelled, ContextExceeded
from . import pieces
from .driver import Capabilities, Driver

REMEMBERED = 1024
BOS = 1
ROUGH = 8  # a bound below this part of the context is good enough to bound the answer with
ERROR = 8  # tokens by which the sum over a cut that is not safe may be wrong
AT_ONCE = 2  # long texts that one backend tokenizes side by side: an old one has eight threads
WAIT = 0.1  # seconds between two looks whether the client still waits
MOST = 1 << 22  # characters of a text that is tokenized whole
LONGEST = 8 * pieces.SIZE  # characters in which there must be a safe cut, for exact ids


# What a piece is tokenized behind. Many tokenizers of sentencepiece put a space before each text:
# the line feed takes it, and is cut off again.
LEADS = ("", "\n")


class Cut(Struct, frozen=True):
    """A safe cut: where, and what the next piece is tokenized behind."""

    at: int
    lead: str


class Piece(Struct, frozen=True):
    """A part of a text, its token ids, and whether the cut behind it is safe."""

    ids: list[int]
    safe: bool


class TokenCounter:
    """Exact counts of one backend's tokenizer, BOS included."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, int] = OrderedDict()
        self._places = threading.Semaphore(AT_ONCE)

    def known(self, prompt: str | tuple[int, ...]) -> int:
        """Tokens of a prompt, 0 where it would have to be asked."""
        return self._recall(_key(prompt)) if isinstance(prompt, str) else len(prompt)

    def count(
        self, prompt: str | tuple[int, ...], cancel: Cancel | None = None, limit: int = 0
    ) -> int:
        """Tokens of a prompt. Raises ContextExceeded as soon as there are `limit` or more (0: no
        limit, BadRequest for a text of more than MOST characters), Cancelled, and what the driver's
        `tokenize` does.

        Where a long text had to be cut in the middle of a word, the count may be a few tokens too
        high. Near the limit it is exact."""
        if not isinstance(prompt, str):
            return len(prompt)
        key = _key(prompt)
        count = self._recall(key)
        if not count:
            if len(prompt) > pieces.SIZE:
                count = self._count_long(prompt, key, cancel or Cancel(), limit)
            else:
                count = len(self._driver.tokenize(prompt, cancel=cancel)) + BOS
            self.remember(prompt, count)
        if limit and count >= limit:
            raise ContextExceeded(count, limit)
        return count

    def ids(
        self, text: str, special: bool = False, cancel: Cancel | None = None, most: int = 0
    ) -> list[int]:
        """Exact token ids of a text; at least the first `most` of them if that is not 0. With
        `special` also the ones that a prompt begins with.

        Raises BadRequest for a text of more than MOST characters and for one that cannot be cut,
        Cancelled, and what the driver's `tokenize` does."""
        cancel = cancel or Cancel()
        if len(text) <= pieces.SIZE:
            return self._driver.tokenize(text, special, cancel)
        if not most:
            _bounded(text)
        found: list[int] = []
        with _Place(self._places, cancel):
            for piece in self._pieces(text, special, cancel, strict=True):
                found += piece.ids
                if most and len(found) >= most:
                    break
        return found

    def remember(self, prompt: str, count: int) -> None:
        """Note a count that another backend of the same tokenizer gave."""
        with self._lock:
            self._known[_key(prompt)] = count
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)

    def clear(self) -> None:
        """Forget: another model may be behind the backend now."""
        with self._lock:
            self._known.clear()

    def _recall(self, key: bytes) -> int:
        with self._lock:
            if key not in self._known:
                return 0
            self._known.move_to_end(key)
            return self._known[key]

    def _count_long(self, text: str, key: bytes, cancel: Cancel, limit: int) -> int:
        if not limit:
            _bounded(text)
        with _Place(self._places, cancel):
            count = self._recall(key)  # somebody may have counted the same text meanwhile
            if count:
                return count
            count, error = BOS, 0
            for piece in self._pieces(text, False, cancel, strict=False):
                count += len(piece.ids)
                if limit and count - error >= limit:
                    raise ContextExceeded(count - error, limit, at_least=True)
                error += 0 if piece.safe else ERROR
            if error and limit and count + error >= limit:
                count = len(self._driver.tokenize(text, cancel=cancel)) + BOS
            return count

    def _pieces(self, text: str, special: bool, cancel: Cancel, strict: bool) -> Iterator[Piece]:
        """The text in pieces, tokenized one after the other. If `strict`, only safe cuts are made:
        raises BadRequest where there is none for long."""
        start, lead = 0, ""
        while start < len(text):
            end = start + pieces.SIZE
            following = self._cut(text, end, cancel)
            while following is None and strict and end < len(text):
                end += pieces.SIZE
                if end - start > LONGEST:
                    raise BadRequest(
                        f"the text has more than {LONGEST} characters in a row that cannot be"
                        " tokenized apart: send it in parts"
                    )
                following = self._cut(text, end, cancel)
            cut = following or Cut(min(end, len(text)), "")
            ids = self._behind(lead, text[start : cut.at], cancel, special and start == 0)
            yield Piece(ids, following is not None or cut.at == len(text))
            start, lead = cut.at, cut.lead

    def _cut(self, text: str, end: int, cancel: Cancel) -> Cut | None:
        """The last safe cut of a window that ends at `end`."""
        if end >= len(text):
            return None
        for at in pieces.candidates(text, end - pieces.SIZE // 2, end):
            before, behind = pieces.near(text, at)
            whole = self._driver.tokenize(before + behind, cancel=cancel)
            first = self._driver.tokenize(before, cancel=cancel)
            for lead in LEADS:
                if whole == first + self._behind(lead, behind, cancel):
                    return Cut(at, lead)
        return None

    def _behind(self, lead: str, text: str, cancel: Cancel, special: bool = False) -> list[int]:
        """The ids of a text as it is behind another one, which `lead` stands for."""
        ids = self._driver.tokenize(lead + text, special, cancel)
        return ids[len(self._driver.tokenize(lead, cancel=cancel)) :] if lead else ids


class _Place:
    """One of the places of those that tokenize long texts, waited for until the client leaves."""

    def __init__(self, places: threading.Semaphore, cancel: Cancel) -> None:
        self._places = places
        self._cancel = cancel

    def __enter__(self) -> None:
        while not self._places.acquire(timeout=WAIT):
            if self._cancel.cancelled:
                raise Cancelled("the client closed the request")

    def __exit__(self, *_: object) -> None:
        self._places.release()


def _bounded(text: str) -> None:
    if len(text) > MOST:
        raise BadRequest(
            f"the text has {len(text)} characters, at most {MOST} can be tokenized in one request:"
            " send it in parts"
        )


def _key(prompt: str) -> bytes:
    return hashlib.blake2b(prompt.encode(), digest_size=16).digest()


def budget(
    task: Task,
    caps: Capabilities,
    n_ctx: int,
    counter: TokenCounter,
    cancel: Cancel | None = None,
) -> int:
    """How many tokens the answer may have: what was asked, or what is left of the context.

    A server that refuses long prompts itself, and stops at the end of its context, needs no count.
    One that would cut the prompt silently gets none that does not fit: raises ContextExceeded."""
    wanted = task.max_tokens
    n_ctx = n_ctx or 4096
    if not caps.truncates:
        return n_ctx if wanted is None else wanted
    bound = most_tokens(task)
    if wanted is None and bound * ROUGH <= n_ctx:
        return n_ctx - bound
    if wanted is not None and bound + wanted <= n_ctx:
        return wanted
    left = n_ctx - _exact(task, n_ctx, counter, cancel)
    return left if wanted is None else min(wanted, left)


def must_fit(task: Task, n_ctx: int, counter: TokenCounter, cancel: Cancel | None = None) -> None:
    """Raises ContextExceeded for a prompt that a context of `n_ctx` tokens cannot hold. Only what
    may be too long by its length in bytes is counted; `counter` knows the count from then on."""
    if most_tokens(task) >= n_ctx:
        _exact(task, n_ctx, counter, cancel)


def most_tokens(task: Task) -> int:
    """Tokens that a prompt has at most."""
    prompt = task.prompt
    bound = len(prompt.encode()) + BOS if isinstance(prompt, str) else len(prompt)
    if task.suffix is not None:
        bound += len(task.suffix.encode()) + 4  # the marks of an infill
    return bound


def _exact(task: Task, n_ctx: int, counter: TokenCounter, cancel: Cancel | None) -> int:
    """Tokens of a prompt. Raises ContextExceeded if they leave no room for one more."""
    count = counter.count(task.prompt, cancel, n_ctx)
    if task.suffix is not None:
        count += counter.count(task.suffix, cancel, n_ctx) + 4
    if count >= n_ctx:
        raise ContextExceeded(count, n_ctx)
    return count
