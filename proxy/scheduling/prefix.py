"""Prompt prefixes: a chain of digests, one for each place where a cached prefix may end.

A link is the digest of all text up to its end, so two prompts agree up to the last link they share,
however they are cut before it. The chain is salted with the group of the caller's key: prompts of
different groups share no link, and so never share a slot's cache.

Long prompts are hashed incrementally. Up to its last boundary, a prompt is kept in parts, each with
its links and the hash state at its end. Hashing continues after the parts that the next prompt
begins with, so a client may also change the end of its last prompt. A long first message is a part
by itself, because many conversations share a system prompt. Comparing is ten times cheaper than
hashing.

SHA-256, since most processors have instructions for it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from hashlib import sha256
from typing import Any

from msgspec import Struct

from ..runtime.locks import native_lock

SIZE = 12  # bytes of a link
BLOCK = 512  # characters, or token ids, between the links that are added to the boundaries
BLOCKS = 128  # of a prompt; in longer ones, a block is twice as long, four times as long, ...
FINE = 128  # the same, at the beginning of a prompt without boundaries
MOST = 512  # links of a chain
LONG = 8192  # characters from which a prompt is kept
PART = 32768  # characters of its parts; the first and the last may have fewer
TAIL = 2048  # characters that follow kept parts are hashed each time until there are so many
REMEMBERED = 32  # long prompts that are kept
MOST_KEPT = 32 << 20  # bytes of them; longer ones are hashed each time


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


class _Part(Struct, frozen=True):
    """A part of a long text, its links by their offsets in the whole text, and the hash state after
    it."""

    text: str
    links: dict[int, bytes]
    state: Any


class _Kept(Struct, frozen=True):
    """A long text of a group."""

    group: str
    parts: list[_Part]

    @property
    def size(self) -> int:
        """In bytes, with parts that it shares with others."""
        return sum(part.text.__sizeof__() for part in self.parts)


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
            head = boundaries[0] if boundaries and boundaries[0] >= LONG else 0
            return self._of_text(prompt, cuts, turn, head, group)
        data = array("q", prompt).tobytes()
        state = sha256(f"{group}\0ids\0".encode())
        links, begin = [], 0
        for end in cuts:
            state.update(data[8 * begin : 8 * end])
            links.append(state.digest()[:SIZE])
            begin = end
        return Chain(tuple(links), tuple(cuts), turn)

    def _of_text(self, prompt: str, cuts: list[int], turn: int, head: int, group: str) -> Chain:
        if not prompt:
            return Chain(turn=1)
        last = cuts[turn - 1]
        known, shared = self._known(prompt, group) if last >= LONG else (None, [])
        begin, state = 0, sha256(f"{group}\0text\0".encode())
        links: list[bytes] = []
        parts: list[_Part] = []
        for part in shared:
            end = begin + len(part.text)
            inside = cuts[len(links) : bisect_right(cuts, end)]
            if not part.links.keys() >= set(inside):
                break  # it was cut at other places
            links += map(part.links.__getitem__, inside)
            begin, state = end, part.state
            parts.append(part)
        replaced = known if known is not None and _is_earlier(known, prompt, parts, begin) else None
        grows = last >= LONG and last - begin >= TAIL
        start = begin  # of the next part
        if grows and parts and begin != head and len(parts[-1].text) < PART:
            start -= len(parts.pop().text)
        state = state.copy()
        for end in cuts[len(links) :]:
            state.update(prompt[begin:end].encode("utf-8", "surrogatepass"))
            links.append(state.digest()[:SIZE])
            begin = end
            if grows and end <= last and (end in (head, last) or end - start >= PART):
                first = bisect_right(cuts, start)
                linked = dict(zip(cuts[first:], links[first:], strict=False))
                parts.append(_Part(prompt[start:end], linked, state.copy()))
                start = end
        if grows:
            self._keep(replaced, _Kept(group, parts))
        return Chain(tuple(links), tuple(cuts), turn)

    def _known(self, prompt: str, group: str) -> tuple[_Kept | None, list[_Part]]:
        """The kept text that shares most with the beginning of a prompt, and the shared parts."""
        known, shared, most = None, 0, 0
        compared: dict[int, bool] = {}  # by id: texts share parts, always at the same place
        for kept in self._kept:
            at = 0
            for count, part in enumerate(kept.parts if kept.group == group else (), 1):
                begins = compared.get(id(part))
                if begins is None:
                    begins = compared[id(part)] = prompt.startswith(part.text, at)
                if not begins:
                    break
                at += len(part.text)
                if at > most:
                    known, shared, most = kept, count, at
        return known, known.parts[:shared] if known is not None else []

    def _keep(self, old: _Kept | None, new: _Kept) -> None:
        """Keep `new` in place of `old`, the text that it extends."""
        size = new.size
        if size > MOST_KEPT:
            return
        with self._lock:
            newest = [new]
            for kept in reversed(self._kept):
                size += 0 if kept is old else kept.size
                if size > MOST_KEPT or len(newest) == REMEMBERED:
                    break
                if kept is not old:
                    newest.append(kept)
            self._kept = tuple(reversed(newest))


def _is_earlier(known: _Kept, prompt: str, shared: list[_Part], end: int) -> bool:
    """Whether a kept text is an earlier turn of this prompt's conversation, though its end may have
    been changed, rather than another conversation with the same beginning. The shared parts reach
    to `end`."""
    rest = known.parts[len(shared) :]
    if len(rest) != 1:
        return not rest
    text = rest[0].text
    return prompt.startswith(text[: len(text) // 2], end)
