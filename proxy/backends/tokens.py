"""Counts the tokens of a prompt, asking the backend only if it matters.

A token is at least one byte, so the length in bytes is an upper bound, which suffices for most
prompts. A long text is tokenized in pieces, in order: that a prompt exceeds the context is known
after about as many tokens as the context holds, and the work stops when the client leaves. Counts
are cached for a bounded number of texts, by their hash, and of pieces: the next turn of a
conversation is cut at the same places, so only its last piece and its new text are tokenized.

Pieces also spare a server.cpp of 2023, which searches the rest of the text for every mark of a chat
template: a text of 10 000 messages takes it minutes, in pieces a few seconds. A cut is safe if no
token crosses it. Good places are before a mark, which is a token of its own, and between two words.
No rule holds for every tokenizer, so a cut is checked by tokenizing the characters around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from msgspec import Struct

from ..core.cache import BoundedCache, digest
from ..core.task import Task
from ..errors import BadRequest, ContextExceeded
from ..runtime.cancel import Cancel
from .driver import Capabilities, Driver
from .http import Room

REMEMBERED = 1024  # counts of texts
PIECES = 16384  # counts of pieces
BOS = 1
ROUGH = 8  # a bound below 1/ROUGH of the context needs no exact count
ERROR = 8  # tokens by which a count may be wrong because of an unsafe cut
AT_ONCE = 2  # long texts that one backend tokenizes in parallel: an old one has eight threads
MOST = 1 << 22  # characters of a text that is tokenized as a whole
SIZE = 8192  # characters of a piece
LONGEST = 8 * SIZE  # characters that must contain a safe cut, for exact ids
NEAR = 64  # characters on each side that show whether a cut is safe
TRIES = 3  # candidates of each kind in one window

MARK = re.compile(r"<[|\uff5c][^\s<>]{1,48}>|</?[a-z_]{1,32}>|\[/?[A-Z_]{2,32}\]")
WORD = re.compile(r"(?<=[^\W_]) (?=[^\W_])")
SPACE = re.compile(r"(?<=\S)(?=\s)")
CLAUSE = re.compile(r"(?<=[\n。，！？；：、.!?;,])(?=[^\W\d_])|(?<=[^\W\d_])(?=[。，！？；：、])")

# Put before each piece. Many sentencepiece tokenizers add a space before a text: it joins the line
# feed, which is removed again.
LEADS = ("", "\n")


class SafeCut(Struct, frozen=True):
    """A safe cut: its position, and the text to put before the next piece."""

    at: int
    lead: str


class CountedPiece(Struct, frozen=True):
    """The tokens of a piece, its length, and the cut after it: whether it is safe, and the text to
    put before the next piece."""

    count: int
    length: int
    safe: bool
    lead: str


class TokenCounter:
    """Exact token counts of one backend's tokenizer, BOS included."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._places = Room(AT_ONCE)
        self.clear()

    def known(self, prompt: str | tuple[int, ...], breaks: Sequence[int] = ()) -> int:
        """The cached token count of a prompt, 0 if there is none."""
        if not isinstance(prompt, str):
            return len(prompt)
        return self._known.get(_key(prompt, breaks)) or 0

    def count_prompt(self, task: Task, cancel: Cancel | None = None, limit: int = 0) -> int:
        """The number of tokens in the prompt of a task, as it is sent. Raises like `count`."""
        if not task.breaks or not isinstance(task.prompt, str):
            return self.count(task.prompt, cancel, limit)
        if limit and len(task.breaks) >= limit:  # there is a token behind each
            raise ContextExceeded(len(task.breaks), limit, at_least=True)
        key = _key(task.prompt, task.breaks)
        count = self._known.get(key)
        if count is None:
            count = self.count(task.prompt[: task.breaks[0]], cancel, limit)
            _, *parts = self._driver.in_parts(task, cancel)
            count += sum(isinstance(part, int) for part in parts)
            # Each of the other texts begins with a token of its own, so no token joins them.
            if texts := "".join(part for part in parts if isinstance(part, str)):
                count += self.count(texts, cancel, limit) - BOS
            self._known.put(key, count, 1)
        if limit and count >= limit:
            raise ContextExceeded(count, limit)
        return count

    def prompt_ids(self, task: Task, cancel: Cancel | None = None) -> list[int]:
        """The token ids of the prompt of a task, without BOS. Raises like `ids`."""
        ids: list[int] = []
        for part in self._driver.in_parts(task, cancel):
            ids += [part] if isinstance(part, int) else self.ids(part, cancel=cancel)
        return ids

    def count(
        self, prompt: str | tuple[int, ...], cancel: Cancel | None = None, limit: int = 0
    ) -> int:
        """The number of tokens in a prompt. Raises ContextExceeded as soon as there are `limit` or
        more (0: no limit, BadRequest for a text of more than MOST characters), Cancelled, and the
        errors of the driver's `tokenize`.

        If a long text had to be cut within a word, the count may be a few tokens too high. Near the
        limit it is exact."""
        if not isinstance(prompt, str):
            return len(prompt)
        key = _key(prompt)
        count = self._known.get(key)
        if count is None:
            if len(prompt) > SIZE:
                count = self._count_long(prompt, key, cancel or Cancel(), limit)
            else:
                count = len(self._driver.tokenize(prompt, cancel=cancel)) + BOS
            self._known.put(key, count, 1)
        if limit and count >= limit:
            raise ContextExceeded(count, limit)
        return count

    def ids(
        self, text: str, special: bool = False, cancel: Cancel | None = None, most: int = 0
    ) -> list[int]:
        """The exact token ids of a text; with `most`, at least the first `most` of them. With
        `special`, including those that begin a prompt.

        Raises BadRequest for a text of more than MOST characters or without a safe cut, Cancelled,
        and the errors of the driver's `tokenize`."""
        cancel = cancel or Cancel()
        if len(text) <= SIZE:
            return self._driver.tokenize(text, special, cancel)
        if not most:
            _bounded(text)
        result: list[int] = []
        with self._places.place(cancel):
            for ids in self._pieces(text, special, cancel):
                result += ids
                if most and len(result) >= most:
                    break
        return result

    def remember(self, prompt: str, count: int, breaks: Sequence[int] = ()) -> None:
        """Store a count from another backend with the same tokenizer."""
        self._known.put(_key(prompt, breaks), count, 1)

    def clear(self) -> None:
        """Drop all counts, because the backend may have another model now."""
        self._known: BoundedCache[int] = BoundedCache(REMEMBERED)
        self._pieces_known: BoundedCache[CountedPiece] = BoundedCache(PIECES)

    def _count_long(self, text: str, key: bytes, cancel: Cancel, limit: int) -> int:
        if not limit:
            _bounded(text)
        with self._places.place(cancel):
            counted = self._known.get(key)
            if counted is not None:  # by another request meanwhile
                return counted
            count, error = BOS, 0
            for piece in self._counted_pieces(text, cancel):
                count += piece.count
                if limit and count - error >= limit:
                    raise ContextExceeded(count - error, limit, at_least=True)
                error += 0 if piece.safe else ERROR
            if error and limit and count + error >= limit:
                count = len(self._driver.tokenize(text, cancel=cancel)) + BOS
            return count

    def _counted_pieces(self, text: str, cancel: Cancel) -> Iterator[CountedPiece]:
        """Count the tokens of a text piece by piece, known pieces without the backend."""
        start, lead = 0, ""
        while start < len(text):
            # All that a piece and its cut depend on.
            seen = text[start : start + SIZE + NEAR]
            key = digest(f"{lead}\0{seen}".encode("utf-8", "surrogatepass"))
            piece = self._pieces_known.get(key)
            if piece is None:
                cut = self._cut(text, start + SIZE, cancel)
                at, following = (cut.at, cut.lead) if cut is not None else (start + SIZE, "")
                ids = self._behind(lead, text[start:at], cancel)
                piece = CountedPiece(len(ids), at - start, cut is not None, following)
                self._pieces_known.put(key, piece, 1)
            yield piece
            start, lead = start + piece.length, piece.lead

    def _pieces(self, text: str, special: bool, cancel: Cancel) -> Iterator[list[int]]:
        """The ids of a text, piece by piece. Only safe cuts are made; raises BadRequest if there is
        none for too long."""
        start, lead = 0, ""
        while start < len(text):
            end = start + SIZE
            while (cut := self._cut(text, end, cancel)) is None:
                end += SIZE
                if end - start > LONGEST:
                    raise BadRequest(
                        f"the text has a run of more than {LONGEST} characters that cannot be"
                        f" tokenized separately: split the text"
                    )
            yield self._behind(lead, text[start : cut.at], cancel, special and start == 0)
            start, lead = cut.at, cut.lead

    def _cut(self, text: str, end: int, cancel: Cancel) -> SafeCut | None:
        """The last safe cut in a window that ends at `end`, or the end of the text if it is
        before."""
        if end >= len(text):
            return SafeCut(len(text), "")
        for at in candidates(text, end - SIZE // 2, end):
            before, behind = text[max(0, at - NEAR) : at], text[at : at + NEAR]
            whole = self._driver.tokenize(before + behind, cancel=cancel)
            first = self._driver.tokenize(before, cancel=cancel)
            for lead in LEADS:
                if whole == first + self._behind(lead, behind, cancel):
                    return SafeCut(at, lead)
        return None

    def _behind(self, lead: str, text: str, cancel: Cancel, special: bool = False) -> list[int]:
        """The ids of a text that follows another one, represented by its last characters `lead`."""
        ids = self._driver.tokenize(lead + text, special, cancel)
        return ids[len(self._driver.tokenize(lead, cancel=cancel)) :] if lead else ids


def _key(text: str, breaks: Sequence[int] = ()) -> bytes:
    return digest("\0".join((text, *map(str, breaks))).encode())


def candidates(text: str, start: int, end: int) -> Iterator[int]:
    """Offsets from `start` to `end` at which the text may be cut, best first."""
    for kind in (MARK, WORD, SPACE, CLAUSE):
        starts = [match.start() for match in kind.finditer(text, start, end)]
        yield from reversed(starts[-TRIES:])


def _bounded(text: str) -> None:
    if len(text) > MOST:
        raise BadRequest(
            f"the text has {len(text)} characters; at most {MOST} can be tokenized per request:"
            f" split the text"
        )


def budget(
    task: Task, caps: Capabilities, n_ctx: int, counter: TokenCounter, cancel: Cancel | None = None
) -> int:
    """The maximum length of the answer in tokens: the requested one, or the rest of the context.

    A server that refuses long prompts itself, and stops at the end of its context, needs no count.
    For one that would silently truncate the prompt, raises ContextExceeded if it is too long."""
    wanted = task.max_tokens
    n_ctx = n_ctx or 4096
    length = task.request.max_length
    if length is not None and task.prompt:
        wanted = min(wanted or length, _left_of(length, task, counter, cancel))
    if not caps.truncates:
        return n_ctx if wanted is None else wanted
    bound = most_tokens(task)
    if wanted is None and bound * ROUGH <= n_ctx:
        return n_ctx - bound
    if wanted is not None and bound + wanted <= n_ctx:
        return wanted
    left = n_ctx - _exact(task, n_ctx, counter, cancel)
    return left if wanted is None else min(wanted, left)


def _left_of(length: int, task: Task, counter: TokenCounter, cancel: Cancel | None = None) -> int:
    """What the prompt leaves of `max_length`. Raises BadRequest if that is nothing."""
    count = counter.count_prompt(task, cancel)
    if count >= length:
        raise BadRequest(
            f"max_length is {length} tokens for prompt and answer together, and the prompt has"
            f" {count}: raise it or send less history",
            param="max_length",
        )
    return length - count


def must_fit(task: Task, n_ctx: int, counter: TokenCounter, cancel: Cancel | None = None) -> None:
    """Raises ContextExceeded for a prompt that does not fit a context of `n_ctx` tokens. Counts
    only if the length in bytes does not decide; `counter` then has the count."""
    if most_tokens(task) >= n_ctx:
        _exact(task, n_ctx, counter, cancel)


def most_tokens(task: Task) -> int:
    """An upper bound of the tokens in a prompt."""
    prompt = task.prompt
    bound = _bytes(prompt) + BOS if isinstance(prompt, str) else len(prompt)
    if task.suffix is not None:
        bound += _bytes(task.suffix) + 4  # the infill marks
    return bound


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _exact(task: Task, n_ctx: int, counter: TokenCounter, cancel: Cancel | None) -> int:
    """The tokens of a prompt. Raises ContextExceeded if no room is left for another one."""
    count = counter.count_prompt(task, cancel, n_ctx)
    if task.suffix is not None:
        count += counter.count(task.suffix, cancel, n_ctx) + 4
    if count >= n_ctx:
        raise ContextExceeded(count, n_ctx)
    return count
