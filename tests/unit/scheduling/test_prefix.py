"""Chains of prefix digests over prompts."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.scheduling.prefix import BLOCKS, KEPT, LONG, Chain, Turn, chain_of

LENGTHS = st.lists(st.text(min_size=1, max_size=700), min_size=1, max_size=6)


def shared(one: Chain, other: Chain) -> int:
    return len({*one.links} & {*other.links})


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
    one, two = "".join(first), "".join(second)
    a = chain_of(one, _boundaries(first))
    b = chain_of(two, _boundaries(second))
    for link, end in zip(b.links, b.ends, strict=True):
        if link in a.links:
            assert one[:end] == two[:end]
    common = {end for end in a.ends if end in b.ends and one[:end] == two[:end]}
    assert common == {end for link, end in zip(b.links, b.ends, strict=True) if link in a.links}


def test_next_turn_starts_with_links_of_previous_turn() -> None:
    first = chain_of("system user", (6, 11))
    then = chain_of("system user answer more", (6, 11, 18, 23))
    assert then.links[:2] == first.links
    assert first.turn == 2
    assert shared(then, first) == 2


def test_groups_share_no_links() -> None:
    ours, theirs = (chain_of("the same text", (3,), group) for group in ("a", "b"))
    assert not set(ours.links) & set(theirs.links)
    ids = chain_of((1, 2, 3), (), "a"), chain_of((1, 2, 3), (), "b")
    assert not set(ids[0].links) & set(ids[1].links)


def test_chain_ignores_boundary_order_and_boundaries_outside_the_prompt() -> None:
    text = "word " * 200
    for prompt in (text, ""):
        inside = chain_of(prompt, tuple(b for b in (40, 700) if b <= len(prompt)) or (0,), "g")
        assert chain_of(prompt, (1001, 700, -3, 0, 40, 700), "g") == inside
    assert chain_of(text, (1001,), "g").turn == len(chain_of(text, (1000,), "g").links)


def test_token_id_prompts_have_links() -> None:
    short, long = (chain_of(tuple(range(n))) for n in (1000, 2000))
    assert short.ends[shared(long, short) - 1] == 896  # the last whole block of the short one
    assert short.size == 1000


def test_long_prompt_has_links_from_its_beginning_to_its_end() -> None:
    text = "".join(chr(97 + number % 26) for number in range(400_000))
    chain = chain_of(text, (1000, 300_000))
    assert chain.ends[0] == 1000
    assert max(b - a for a, b in itertools.pairwise(chain.ends)) <= 2 * 4096
    assert len(chain.links) <= BLOCKS + 3


@pytest.mark.parametrize("size", [60_000, 90_000, 200_000, 500_000])
def test_grown_prompt_shares_links_with_its_shorter_self(size: int) -> None:
    text = "".join(chr(97 + number % 26) for number in range(size))
    before = chain_of(text[:50_000], (50_000,))
    after = chain_of(text, (50_000, size))
    assert after.ends[shared(after, before) - 1] == 50_000


@pytest.mark.parametrize("length", [2_000, 5_000, 40_000, 300_000])
def test_next_turns_are_hashed_from_the_last_one_as_if_they_were_hashed_anew(length: int) -> None:
    turns: list[Turn] = []
    for name in ("first ", "second ", "first "):
        text = name
        ends: tuple[int, ...] = ()
        while len(text) < 3 * LONG[0]:
            text += "word " * (length // 5)
            ends = (*ends, len(text))
            for prompt in (f"{text}assistant:", f"{text}user: changed its mind"):
                for group in ("one", "other"):
                    assert chain_of(prompt, ends, group, turns) == chain_of(prompt, ends, group)
        assert text in [turn.text for turn in turns]


def test_turn_is_only_continued_by_its_own_group_and_text() -> None:
    turns: list[Turn] = []
    text = "word " * LONG[0]
    chain_of(text, (len(text) - 9,), "one", turns)
    (turn,) = turns
    cuts = [*chain_of(text, (len(text) - 9,)).ends]
    assert turn.precedes(text, "one", cuts)
    assert not turn.precedes(text, "other", cuts)
    assert not turn.precedes(text.replace("word", "work", 1), "one", cuts)
    assert not turn.precedes(text, "one", [cuts[0] + 1, *cuts[1:]])


def test_kept_turns_are_bounded() -> None:
    turns: list[Turn] = []
    for number in range(KEPT + 4):
        chain_of(f"{number:02} " * LONG[0], (LONG[0],), "", turns)
    assert [turn.text[:2] for turn in turns] == [
        f"{number:02}" for number in range(KEPT + 3, 3, -1)
    ]
    for size in (LONG[0] - 1, LONG[-1] + 1):
        chain_of("a" * size, (size,), "", turns)
    assert len(turns) == KEPT and turns[0].text[0] != "a"
