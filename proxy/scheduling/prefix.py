"""Prompt prefixes: a chain of digests, one for each place where a cached prefix may end.

A link is the digest of all text up to its end, so two prompts agree up to the last link they share,
however they are cut before it. The chain is salted with the group of the caller's key: prompts of
different groups share no link, and so never share a slot's cache.

SHA-256, since most processors have instructions for it: 400 000 characters take less than 1 ms. The
next turn of a long prompt is hashed from its last message on: to compare takes a tenth of the time.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from hashlib import sha256
from typing import Any

from msgspec import Struct

SIZE = 12  # bytes of a link
BLOCK = 512  # characters, or token ids, between the links that are added to the boundaries
BLOCKS = 128  # of a prompt; in longer ones, a block is twice as long, four times as long, ...
FINE = 128  # spacing of the first links of a prompt without message boundaries
MOST = 512  # links of a chain
LONG = range(64 << 10, 1 << 20)  # characters of prompts that are kept,
KEPT = 16  # of so many conversations


class Chain(Struct, frozen=True, array_like=True, gc=False):
    """`links` are digests of the text up to each of `ends` (ascending, in characters or token ids);
    the last covers the whole prompt. The first `turn` links reach to the last message boundary,
    which the next turn of the conversation repeats."""

    links: tuple[bytes, ...] = ()
    ends: tuple[int, ...] = ()
    turn: int = 0

    def check(self) -> None:
        """Raises ValueError for decoded values that no chain has."""
        if len(self.links) != len(self.ends) or not 0 <= self.turn <= max(1, len(self.links)):
            raise ValueError("a chain is invalid")

    @property
    def size(self) -> int:
        return self.ends[-1] if self.ends else 0


class Turn(Struct, frozen=True):
    """A prompt up to its last message, its links, and the hash at its end."""

    group: str
    text: str
    links: list[bytes]
    ends: list[int]
    state: Any

    def precedes(self, prompt: str, group: str, cuts: list[int]) -> bool:
        """Whether a prompt, cut at these places, begins with it."""
        alike = self.group == group and cuts[: len(self.ends)] == self.ends
        return alike and prompt.startswith(self.text)


def chain_of(
    prompt: str | tuple[int, ...],
    boundaries: tuple[int, ...] = (),
    group: str = "",
    turns: list[Turn] | None = None,
) -> Chain:
    """The chain of a prompt, given as text or token ids, for a group of keys.

    `boundaries` are where messages end. A long text continues one of `turns`, and is kept there."""
    if not prompt:
        return Chain(turn=1)
    size = len(prompt)
    block = BLOCK
    while size > BLOCKS * block:
        block *= 2  # so that shorter prompts have the same links, and more
    blocks: Any = range(block, size, block)
    if boundaries and block > BLOCK:  # the boundaries suffice, where there is one for each block
        blocks = {*blocks}.difference([-(-end // block) * block for end in boundaries])
    if not boundaries:
        boundaries = (*range(FINE, min(size, 8 * FINE), FINE), *blocks)
    ends = sorted({*blocks, *boundaries, size})
    if ends[0] <= 0 or ends[-1] > size:
        ends = [end for end in ends if 0 < end <= size] or [size]
        boundaries = tuple(b for b in boundaries if 0 < b <= size)
    cuts = ends[-MOST:]
    turn = bisect_right(cuts, max(boundaries, default=size)) or len(cuts)
    links: list[bytes] = []
    rest, begin, turn_end = cuts, 0, 0
    if not isinstance(prompt, str):
        state = sha256(f"{group}\0ids\0".encode())
        for end in cuts:
            state.update(array("q", prompt[begin:end]))
            links.append(state.digest()[:SIZE])
            begin = end
        return Chain(tuple(links), tuple(cuts), turn)
    state = sha256(f"{group}\0text\0".encode())
    if size in LONG and turns is not None:
        turn_end = cuts[turn - 1]
        before = next((old for old in (*turns,) if old.precedes(prompt, group, cuts)), None)
        if before is not None:
            links, begin, state = before.links.copy(), before.ends[-1], before.state.copy()
            rest = cuts[len(links) :]
    for end in rest:
        state.update(prompt[begin:end].encode("utf-8", "surrogatepass"))
        links.append(state.digest()[:SIZE])
        begin = end
        if end == turn_end and turns is not None:
            last = Turn(group, prompt[:end], links.copy(), cuts[:turn], state.copy())
            turns[:] = [last, *(old for old in turns if old is not before)][:KEPT]
    return Chain(tuple(links), tuple(cuts), turn)


def agreement(chain: Chain, other: Chain) -> int:
    """The end of the last link that two prompts share."""
    links = {*other.links}
    shared = (end for end, link in zip(chain.ends, chain.links, strict=True) if link in links)
    return max(shared, default=0)
