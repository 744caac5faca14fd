"""Counts the tokens of a prompt, asking the backend only if it matters.

A token is at least one byte, so the length in bytes is an upper bound, which suffices for most
prompts. A long text is counted in pieces, so the work stops at the limit and when the client
leaves, and a server.cpp of 2023 does not search all of it for every mark of a chat template. Counts
are kept, for the next turn. Near the limit, the whole text is counted: a cut may double a token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache, partial
from itertools import chain, islice, pairwise
from typing import NamedTuple

from ..core.cache import BoundedCache, digest
from ..core.task import Task
from ..errors import BackendBusy, BadRequest, ContextExceeded, Unsupported, UpstreamFault
from ..runtime.blocking import give_way
from ..runtime.cancel import Cancel
from .connections import ConnectionLimit
from .driver import Capabilities, Driver

REMEMBERED = 1024  # counts of texts
PIECES = 16384  # counts of pieces
BOS = 1
ROUGH = 8  # a bound below 1/ROUGH of the context needs no exact count
ERROR = 8  # tokens by which a count may be wrong because of a cut
KEPT = 8  # long texts whose next turn is counted from their last piece on
LONGEST = 1 << 20  # characters of one
AT_ONCE = 2  # long texts that one backend tokenizes in parallel: an old one has eight threads
MOST = 1 << 22  # characters of a text that is tokenized
MOST_OLD = 1 << 18  # the same as a whole, on a server of 2023: half a minute
SIZE = 8192  # characters of a piece
TOGETHER = 64  # pieces that are cut and looked up before other greenlets run: 4 ms
NEAR = 256  # characters before its end in which it is cut, or else in its second half

CUTS = (
    re.compile(r"<[|\uff5c][^\s<>]{1,48}>|</?[a-z_]{1,32}>|\[/?[A-Z_]{2,32}\]"),  # before a mark
    re.compile(r"(?<=[^\W_]) (?=[^\W_])"),  # between two words
    re.compile(r"(?<=\S)(?=\s)"),
    re.compile(r"(?<=[\n。，！？；：、.!?;,])(?=[^\W\d_])|(?<=[^\W\d_])(?=[。，！？；：、])"),
)


Tokenize = Callable[[str], list[int]]


class Head(NamedTuple):
    """A long text without its last piece, and its tokens. By `error` tokens, the count of all may
    be wrong."""

    text: str = ""
    tokens: int = BOS
    error: int = -ERROR


class TokenCounter:
    """Exact token counts of one backend's tokenizer, BOS included."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._places = ConnectionLimit(AT_ONCE)
        self.clear()

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
        """The number of tokens in a prompt; of a long text perhaps a few too many, but exact near
        the limit. Raises ContextExceeded as soon as there are `limit` or more (0: no limit,
        BadRequest beyond MOST characters), Cancelled, and the errors of the driver's `tokenize`."""
        if not isinstance(prompt, str):
            return len(prompt)
        if len(prompt) > SIZE:
            count = self._count_long(prompt, cancel or Cancel(), limit)
        else:
            tokenize = partial(self._driver.tokenize, cancel=cancel)
            count = BOS + _counted(self._known, prompt, tokenize)
        if limit and count >= limit:
            raise ContextExceeded(count, limit)
        return count

    def ids(self, text: str, special: bool = False, cancel: Cancel | None = None) -> list[int]:
        """The token ids of a text; with `special`, including those that begin a prompt. Raises
        BadRequest for a text that is too long, and like `count`."""
        if len(text) <= SIZE:
            return self._driver.tokenize(text, special, cancel)
        _bounded(text, self._most)
        with self._places.place(cancel or Cancel()):
            return self._driver.tokenize(text, special, cancel)

    def clear(self, *, slow: bool = False) -> None:
        """Drop all counts: the backend may have another model now. `slow`: it is of 2023."""
        self._most = MOST_OLD if slow else MOST
        self._heads: list[Head] = []
        self._known: BoundedCache[int] = BoundedCache(REMEMBERED)
        self._pieces: BoundedCache[int] = BoundedCache(PIECES)

    def _count_long(self, text: str, cancel: Cancel, limit: int) -> int:
        if not limit:
            _bounded(text, MOST)
        heads = self._heads  # of this model
        head = next((head for head in (*heads,) if text.startswith(head.text)), Head())
        begin = at = len(head.text)
        before = count, error = head.tokens, head.error
        with ExitStack() as held:
            # The place is taken when the driver is asked first.
            place = cache(lambda: held.enter_context(self._places.place(cancel)))

            def tokenize(part: str) -> list[int]:
                place()
                return self._driver.tokenize(part, cancel=cancel)

            for number, piece in enumerate(pieces(text, start=begin), 1):
                if not number % TOGETHER:
                    give_way()  # counts that are known make nothing wait
                begin, before = at, (count, error)
                count += _counted(self._pieces, piece, tokenize)
                at, error = at + len(piece), error + ERROR
                if limit and count - error >= limit:
                    raise ContextExceeded(count - error, limit, at_least=True)
            if len(head.text) < begin <= LONGEST:
                others = (other for other in heads if other is not head)
                heads[:] = [Head(text[:begin], *before), *others][:KEPT]
            if limit and count + error >= limit:
                return BOS + _counted(self._known, text, tokenize)
        return count


def _counted(counts: BoundedCache[int], text: str, tokenize: Tokenize) -> int:
    key = _key(text)
    count = counts.get(key)
    if count is None:
        count = len(tokenize(text))
        counts.put(key, count, 1)
    return count


def _key(text: str, breaks: Sequence[int] = ()) -> bytes:
    return digest("\0".join((text, *map(str, breaks))).encode("utf-8", "surrogatepass"))


def pieces(text: str, most: int = SIZE, start: int = 0) -> Iterator[str]:
    """The text from `start` in pieces of `most` characters. They begin at the same places when it
    grows."""
    while len(text) - start > most:
        end = start + most
        # Nearby first: there are hundreds of places between words.
        begins = [end - size for size in (NEAR, most // 2)]
        places = (cuts.finditer(text, begin, end) for cuts in CUTS for begin in begins)
        starts = next(filter(None, ([m.start() for m in matches] for matches in places)), [end])
        cut = starts[-1]
        yield text[start:cut]
        start = cut
    yield text[start:]


def _bounded(text: str, most: int) -> None:
    if len(text) > most:
        raise BadRequest(
            f"the text has {len(text)} characters; at most {most} can be tokenized per request:"
            f" split the text"
        )


def most_tokens(task: Task) -> int:
    prompt = task.prompt
    bound = len(prompt)
    if isinstance(prompt, str):
        bound = BOS + (bound if prompt.isascii() else len(prompt.encode()))
    if task.suffix is not None:
        bound += len(task.suffix.encode()) + 4  # the infill marks
    return bound


def exact_tokens(task: Task, n_ctx: int, counter: TokenCounter, cancel: Cancel | None) -> int:
    """The tokens of a prompt. Raises ContextExceeded if no room is left for another one."""
    count = counter.count_prompt(task, cancel, n_ctx)
    if task.suffix is not None:
        count += counter.count(task.suffix, cancel, n_ctx) + 4
    if count >= n_ctx:
        raise ContextExceeded(count, n_ctx)
    return count


def check_ids(
    driver: Driver, ids: Collection[int], caps: Capabilities, param: str, *, harmless: bool = False
) -> None:
    """Raises BadRequest for a token id outside of the vocabulary, which crashes an old server; if
    it is not `harmless`, Unsupported for a vocabulary of unknown size. Like `Driver.n_vocab`."""
    if not ids or (caps.queues and not caps.n_vocab):
        return
    try:
        size = caps.n_vocab or driver.n_vocab()
    except BackendBusy:
        if harmless:
            return
        raise
    if size is None:
        return
    wrong = next((token for token in ids if not 0 <= token < size), None)
    if size and wrong is not None:
        raise BadRequest(
            f"{param} contains the token id {wrong}: this model's ids are 0 to {size - 1}",
            param=param,
        )
    if not size and not harmless:
        raise Unsupported(
            "this model's backend does not report its vocabulary, so token ids cannot be checked:"
            " send text",
            param=param,
        )


# Sends a prompt so that no token spans one of its breaks.
#
# The prompt becomes a list of texts and token ids, which servers of all generations take: they
# tokenize each text by itself. The text up to the first break stays a text, before which the server
# puts its begin token. What follows a break becomes ids, because many sentencepiece tokenizers add
# a space before a text. From the next end of a turn on, which is a control token, it is a text
# again.
#
# The ids are asked for in one call. Between the texts is an id that no vocabulary has, which
# ``/tokenize`` returns as it is, and before each a line feed, which takes the added space. A text
# that grows behind its last break keeps its ids, so a slot's cache stays valid.

BETWEEN = -1  # no vocabulary has it
LEADS = ("\n", ".", "0")  # put before a text; tried until no token spans it and the text
LONG = 1 << 16  # characters that are tokenized in one call: an old server takes seconds for more
TEXTS = 4096  # texts in one call

Part = str | int
TokenizeParts = Callable[[list[Part], Cancel | None], list[int]]


class BrokenPrompts:
    """Makes the lists for one server, whose tokenizer takes lists as well."""

    def __init__(self, tokenize: TokenizeParts) -> None:
        self._tokenize = tokenize
        self._is_token: dict[str, bool] = {}

    def parts(
        self, text: str, breaks: Sequence[int], ends: Sequence[str], cancel: Cancel | None = None
    ) -> list[Part]:
        """The prompt as a list. `breaks` are ascending offsets inside of it; `ends` are the texts
        that may end a turn. Raises Cancelled and the errors of the server."""
        if not breaks:
            return [text]
        ends = [end for end in ends if self._known_token(end, cancel)]
        first, *behind = [text[a:b] for a, b in pairwise((0, *breaks, len(text)))]
        parted = [_parted(each, ends) for each in behind]
        batches = _batches(chain.from_iterable(texts for texts, _ in parted))
        ids = chain.from_iterable(self._of_batch(batch, LEADS, cancel) for batch in batches)
        out: list[Part] = [first]
        for texts, rest in parted:
            out += chain.from_iterable(islice(ids, len(texts)))
            if rest:
                out.append(rest)
        return out

    def _known_token(self, text: str, cancel: Cancel | None) -> bool:
        """Whether a text is a control token of its own."""
        is_token = self._is_token.get(text)
        if is_token is None:
            lead = LEADS[0]
            content: list[Part] = [text, BETWEEN, lead, BETWEEN, lead + text]
            alone, before, both = _split(self._tokenize(content, cancel), 3)
            is_token = self._is_token[text] = len(alone) == 1 and both == before + alone
        return is_token

    def _of_batch(
        self, texts: list[str], leads: Sequence[str], cancel: Cancel | None
    ) -> list[list[int]]:
        """The ids of each text. The next lead is tried where this one's tokens change."""
        if not leads:
            raise UpstreamFault("the backend cannot tokenize the middle of a text")
        lead, *others = leads
        content: list[Part] = [lead]
        for text in texts:
            content += (BETWEEN, lead + text)
        before, *all_ids = _split(self._tokenize(content, cancel), 1 + len(texts))
        out = []
        for text, ids in zip(texts, all_ids, strict=True):
            if ids[: len(before)] == before:
                out.append(ids[len(before) :])
            else:
                out += self._of_batch([text], others, cancel)
        return out


def _parted(text: str, ends: Iterable[str]) -> tuple[list[str], str]:
    """A text behind a break: what is sent as ids, in pieces that begin at the same places when it
    grows, and the text from the end of the turn on."""
    at = min((place for end in ends if (place := text.find(end, 1)) > 0), default=len(text))
    return [*pieces(text[:at], LONG)], text[at:]


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and (size + len(text) > LONG or len(batch) == TEXTS):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch


def _split(ids: Iterable[int], count: int) -> list[list[int]]:
    """The ids of each text. Raises UpstreamFault if there are not as many."""
    out: list[list[int]] = [[]]
    for token in ids:
        if token == BETWEEN:
            out.append([])
        else:
            out[-1].append(token)
    if len(out) != count:
        raise UpstreamFault("the backend returned invalid tokens")
    return out
