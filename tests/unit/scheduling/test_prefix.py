"""Chains of prefix digests over prompts."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.scheduling.prefix import BLOCKS, LONG, MOST, PART, REMEMBERED, Chains

LENGTHS = st.lists(st.text(min_size=1, max_size=700), min_size=1, max_size=6)


def _boundaries(parts: list[str]) -> tuple[int, ...]:
    ends, at = [], 0
    for part in parts:
        at += len(part)
        ends.append(at)
    return tuple(ends)


@given(LENGTHS, LENGTHS)
def test_prompts_share_links_exactly_where_their_texts_agree(
    first: list[str], second: list[str]
) -> None:
    chains = Chains()
    one, two = "".join(first), "".join(second)
    a = chains.chain(one, _boundaries(first))
    b = chains.chain(two, _boundaries(second))
    for link, end in zip(b.links, b.ends, strict=True):
        if link in a.links:
            assert one[:end] == two[:end]
    common = {end for end in a.ends if end in b.ends and one[:end] == two[:end]}
    assert common == {end for link, end in zip(b.links, b.ends, strict=True) if link in a.links}


def test_next_turn_starts_with_links_of_previous_turn() -> None:
    chains = Chains()
    first = chains.chain("system user", (6, 11))
    then = chains.chain("system user answer more", (6, 11, 18, 23))
    assert then.links[:2] == first.links
    assert first.turn == 2
    assert then.common(first) == 2


def test_groups_share_no_links() -> None:
    chains = Chains()
    ours, theirs = (chains.chain("the same text", (3,), group) for group in ("a", "b"))
    assert not set(ours.links) & set(theirs.links)
    ids = chains.chain((1, 2, 3), (), "a"), chains.chain((1, 2, 3), (), "b")
    assert not set(ids[0].links) & set(ids[1].links)


def test_digest_cache_does_not_change_chains() -> None:
    turns = [chr(97 + n) * (LONG // 2 + n) for n in range(8)]
    chains = Chains()
    for count in range(1, 9):
        text = "".join(turns[:count])
        bounds = _boundaries(turns[:count])
        assert chains.chain(text, bounds) == Chains().chain(text, bounds)
        # also with a tail without a boundary, and with other boundaries than before
        assert chains.chain(text + "?", bounds) == Chains().chain(text + "?", bounds)
        assert chains.chain(text, bounds[:1]).links[-1] == Chains().chain(text, bounds).links[-1]


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(1, 3 * PART)), min_size=1, max_size=8),
    st.integers(1, 9),
)
def test_digest_cache_does_not_change_chains_of_prompts_with_another_end(
    turns: list[tuple[int, int]], messages: int
) -> None:
    chains = Chains()
    text = "".join(chr(97 + number % 26) for number in range(PART)) * 8
    for same, more in turns:
        begin = same * PART // 2
        prompt = text[:begin] + str(more) * more
        bounds = tuple(range(0, len(prompt), max(1, len(prompt) // messages)))
        assert chains.chain(prompt, bounds) == Chains().chain(prompt, bounds)
        assert chains.chain(prompt, bounds) == Chains().chain(prompt, bounds)


def test_digest_cache_does_not_change_chains_of_many_messages() -> None:
    chains, size = Chains(), 1000
    text = "".join(f"{number:{size}}" for number in range(MOST + 100))
    for count in (MOST - 50, MOST, MOST + 50, MOST + 100):
        bounds = tuple(range(size, count * size, size))
        prompt = text[: count * size]
        assert chains.chain(prompt, bounds) == Chains().chain(prompt, bounds)


class Prompt(str):
    """Counts the characters that are copied, to be hashed or kept."""

    copied = 0

    def __getitem__(self, part: Any) -> str:
        self.copied += part.stop - part.start
        return super().__getitem__(part)


def test_next_turn_hashes_its_new_text_alone_even_if_the_last_message_was_another() -> None:
    chains, size = Chains(), 400_000
    text = "".join(f"{number:1000}" for number in range(500))
    for turn in range(4):
        prompt = Prompt(text[:size] + f"{turn:2000}")
        chains.chain(prompt, tuple(range(0, size + 2000, 1000)))
        assert prompt.copied >= 2 * size if not turn else prompt.copied <= 5 * PART
        size += 4000


def test_shared_system_prompt_is_hashed_once() -> None:
    chains, system = Chains(), "system " * 2000
    for number in range(REMEMBERED + 8):
        prompt = Prompt(f"{system}question {number}")
        chains.chain(prompt, (len(system), len(prompt)))
        if number:
            assert prompt.copied == len(prompt) - len(system)


def test_conversations_that_share_a_system_prompt_keep_their_own_ends() -> None:
    chains, system = Chains(), "system " * 2000
    turns = [f"{system}{number}" + "turn " * LONG for number in range(4)]
    for text in turns:
        chains.chain(text, (len(system), len(text)))
    for text in turns:
        prompt = Prompt(text + "next " * 100)
        chains.chain(prompt, (len(system), len(text), len(prompt)))
        assert prompt.copied == len(prompt) - len(text)


def test_chain_ignores_boundary_order_and_boundaries_outside_the_prompt() -> None:
    chains, text = Chains(), "word " * 200
    for prompt in (text, ""):
        inside = chains.chain(prompt, tuple(b for b in (40, 700) if b <= len(prompt)) or (0,), "g")
        assert chains.chain(prompt, (1001, 700, -3, 0, 40, 700), "g") == inside
    assert chains.chain(text, (1001,), "g").turn == len(chains.chain(text, (1000,), "g").links)


def test_token_id_prompts_have_links() -> None:
    chains = Chains()
    short, long = (chains.chain(tuple(range(n))) for n in (1000, 2000))
    assert short.ends[long.common(short) - 1] == 896  # the last whole block of the short one
    assert short.size == 1000


def test_long_prompt_has_links_from_its_beginning_to_its_end() -> None:
    text = "".join(chr(97 + number % 26) for number in range(400_000))
    chain = Chains().chain(text, (1000, 300_000))
    assert chain.ends[0] == 1000
    assert max(b - a for a, b in itertools.pairwise(chain.ends)) <= 4096
    assert len(chain.links) <= BLOCKS + 3


@pytest.mark.parametrize("size", [60_000, 90_000, 200_000, 500_000])
def test_grown_prompt_shares_links_with_its_shorter_self(size: int) -> None:
    text = "".join(chr(97 + number % 26) for number in range(size))
    chains = Chains()
    before = chains.chain(text[:50_000], (50_000,))
    after = chains.chain(text, (50_000, size))
    assert after.ends[after.common(before) - 1] == 50_000
    assert after == Chains().chain(text, (50_000, size))
