"""Keeps a conversation in the tokens that an old server's slot holds.

A server of 2023 tokenizes the whole text of each prompt. The answer in it often gets other tokens
than the model wrote (two line feeds instead of a double one), and everything behind the first
difference is evaluated again. The server's stream does not tell ids, but each of its pieces is the
text of one token. So the next prompt of the conversation is sent as the text of its first turn and
the ids of what follows: each piece tokenized by itself, and the new text. Only the answer and the
new text are tokenized, in one call, with a mark of the template between the pieces.

A text goes to the server as it is if its tokens do not differ, or if anything about them is in
doubt.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from msgspec import Struct

from ..core.cache import digest

SLOTS = 4096  # whose tokens are kept
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
    """What the slots of one server hold."""

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
        if 0 <= slot < SLOTS and pieces:
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
        places = [place for place, one in enumerate(ids) if one == between][: len(pieces) + 1]
        if len(places) <= len(pieces):
            return None
        parts = [ids[a + 1 : b] for a, b in itertools.pairwise(places)]
        return [*parts, ids[places[-1] + 1 :]] if all(parts) else None


def _key(text: str, breaks: Sequence[int]) -> bytes:
    places = "".join(f"\0{at}" for at in breaks)
    return digest((text + places).encode("utf-8", "surrogatepass"))
