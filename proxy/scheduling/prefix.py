"""Prompt prefixes: a chain of digests, one for each place where a cached prefix may end.

A link is the digest of all text up to its end, so two prompts agree up to the last link they share,
however they are cut before it. The chain is salted with the group of the caller's key: prompts of
different groups share no link, and so never share a slot's cache.

Long prompts are hashed incrementally. The hash state at the last boundary is kept together with the
text, and hashing continues from there when a prompt begins with that text (comparing is twenty
times cheaper than hashing).
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from hashlib import blake2b
from typing import Any

from msgspec import Struct

from ..runtime.locks import native_lock

SIZE = 12  # bytes of a link
BLOCK = 512  # characters, or token ids, between the links that are added to the boundaries
BLOCKS = 128  # of a prompt; in longer ones, a block is twice as long, four times as long, ...
FINE = 128  # the same, at the beginning of a prompt without boundaries
MOST = 512  # links of a chain
LONG = 8192  # characters from which the hash state is kept
REMEMBERED = 32  # long prompts whose hash state is kept
HEAD = 4096  # characters at the head of a prompt in which timestamps are masked

_CODE = re.compile(r"(\bcch=)([0-9a-fA-F]{3,16})(?=;)")  # Claude Code's attribution line
_SECONDS = re.compile(r"([0-2][0-9]:[0-5][0-9]:)([0-5][0-9](?:[.,][0-9]+)?)(?![0-9:])")


class Chain(Struct, frozen=True):
    """`links` are digests of the text up to each of `ends` (ascending, in characters or token ids);
    the last covers the whole prompt. The first `turn` links reach to the last message boundary,
    which the next turn of the conversation repeats."""

    links: tuple[bytes, ...] = ()
    ends: tuple[int, ...] = ()
    turn: int = 0

    @property
    def size(self) -> int:
        return self.ends[-1] if self.ends else 0

    def common(self, other: Chain) -> int:
        """The number of links up to the deepest that `other` has too."""
        known = set(other.links) if len(other.links) > 8 else other.links
        for depth in range(len(self.links), 0, -1):
            if self.links[depth - 1] in known:
                return depth
        return 0


class _Kept(Struct, frozen=True):
    """A long text with its links, their ends, and the hash state after it."""

    group: str
    text: str
    ends: list[int]
    links: list[bytes]
    state: Any


class Chains:
    """Computes chains. Thread-safe."""

    def __init__(self) -> None:
        self._lock = native_lock()
        self._kept: tuple[_Kept, ...] = ()  # the newest last

    def chain(
        self, prompt: str | tuple[int, ...], boundaries: tuple[int, ...] = (), group: str = ""
    ) -> Chain:
        """The chain of a prompt, given as text or token ids, for a group of keys.

        `boundaries` are the positions where messages end."""
        size = len(prompt)
        block = BLOCK
        while size > BLOCKS * block:
            block *= 2  # so that shorter prompts have the same links, and more
        blocks = range(block, size, block)
        if not boundaries:
            boundaries = (*range(FINE, min(size, 8 * FINE), FINE), *blocks)
        ends = sorted((*blocks, *boundaries, size))  # timsort merges the sorted runs
        if ends[0] <= 0 or ends[-1] > size:
            ends = [end for end in ends if 0 < end <= size] or [size]
            boundaries = tuple(b for b in boundaries if 0 < b <= size)
        cuts = [*dict.fromkeys(ends)][-MOST:]
        turn = bisect_right(cuts, max(boundaries) if boundaries else size) or len(cuts)
        if isinstance(prompt, str):
            return self._of_text(prompt, cuts, turn, group)
        data = array("q", prompt).tobytes()
        state = blake2b(f"{group}\0ids\0".encode(), digest_size=SIZE)
        links, begin = [], 0
        for end in cuts:
            state.update(data[8 * begin : 8 * end])
            links.append(state.digest())
            begin = end
        return Chain(tuple(links), tuple(cuts), turn)

    def _of_text(self, prompt: str, cuts: list[int], turn: int, group: str) -> Chain:
        if not prompt:
            return Chain(turn=1)
        last = cuts[turn - 1]
        keep = last if last >= LONG else 0
        known = self._known(prompt, group) if keep else None
        begin, links = 0, []
        if known is None:
            state = blake2b(f"{group}\0text\0".encode(), digest_size=SIZE)
        else:
            begin, state = len(known.text), known.state.copy()
            if cuts[: len(known.ends)] == known.ends:
                links = [*known.links]
            else:
                linked = dict(zip(known.ends, known.links, strict=True))
                old = [end for end in cuts if end in linked]
                links = [linked[end] for end in old]
                cuts = [*old, *(end for end in cuts if end > begin)]
                turn = bisect_right(cuts, last) or 1
        for end in cuts[len(links) :]:
            state.update(prompt[begin:end].encode("utf-8", "surrogatepass"))
            links.append(state.digest())
            begin = end
            if end == keep:
                ends = cuts[: len(links)]
                self._keep(known, _Kept(group, prompt[:end], ends, [*links], state.copy()))
        return Chain(tuple(links), tuple(cuts), turn)

    def _known(self, prompt: str, group: str) -> _Kept | None:
        longest = None
        for kept in self._kept:
            longer = longest is None or len(kept.text) > len(longest.text)
            if longer and kept.group == group and prompt.startswith(kept.text):
                longest = kept
        return longest

    def _keep(self, old: _Kept | None, new: _Kept) -> None:
        """Keep `new` in place of `old`, the text that it extends."""
        with self._lock:
            left = [kept for kept in self._kept if kept is not old]
            self._kept = (*left[-REMEMBERED + 1 :], new)


def mask(prompt: str, end: int) -> str:
    """The prompt with changing seconds and codes before `end` (its first boundary) replaced by
    zeros of the same length, so that the prefix stays the same from turn to turn."""
    head = prompt[: min(end, HEAD)]
    masked = _SECONDS.sub(_zeros, head)
    if "cch=" in masked:
        masked = _CODE.sub(_zeros, masked)
    return prompt if masked == head else masked + prompt[len(head) :]


def _zeros(found: re.Match[str]) -> str:
    return found[1] + "0" * len(found[2])
