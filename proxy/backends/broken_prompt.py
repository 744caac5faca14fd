"""Sends a prompt so that no token spans one of its breaks.

The prompt becomes a list of texts and token ids, which servers of all generations take: they
tokenize each text by itself. The text up to the first break stays a text, before which the server
puts its begin token. What follows a break becomes ids, because many sentencepiece tokenizers add a
space before a text. From the next end of a turn on, which is a control token, it is a text again.

The ids are asked for in one call. Between the texts is an id that no vocabulary has, which
``/tokenize`` returns as it is, and before each a line feed, which takes the added space. A text
that grows behind its last break keeps its ids, so a slot's cache stays valid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice, pairwise

from ..errors import UpstreamFault
from ..runtime.cancel import Cancel
from .tokens import pieces

BETWEEN = -1  # no vocabulary has it
LEADS = ("\n", ".", "0")  # put before a text; tried until no token spans it and the text
LONG = 1 << 16  # characters that are tokenized in one call: an old server takes seconds for more
AT_ONCE = 4096  # texts in one call

Part = str | int
Tokenize = Callable[[list[Part], Cancel | None], list[int]]


class BrokenPrompts:
    """Makes the lists for one server, whose tokenizer takes lists as well."""

    def __init__(self, tokenize: Tokenize) -> None:
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
        if batch and (size + len(text) > LONG or len(batch) == AT_ONCE):
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
