"""The bound for caches that know the future, against trying every choice."""

from __future__ import annotations

import itertools
import random

import pytest

from benchmarks.foresight import Prompt, bounds, unlimited


def _best_of_all(prompts: list[Prompt], slots: int) -> int:
    """The most cached tokens, by trying every slot for every request."""
    best = 0
    for places in itertools.product(range(slots), repeat=len(prompts)):
        held: dict[int, tuple[bytes, ...]] = {}
        total = 0
        for (links, ends), place in zip(prompts, places, strict=True):
            before = held.get(place, ())
            same = sum(1 for a, b in zip(before, links, strict=False) if a == b)
            total += min(ends[same - 1], ends[-1] - 1) if same else 0
            held[place] = tuple(links)
        best = max(best, total)
    return best


def _prompts(seed: int) -> list[Prompt]:
    draw = random.Random(seed)
    prompts: list[Prompt] = []
    for _ in range(draw.randint(2, 6)):
        words = [draw.choice("ab") for _ in range(draw.randint(1, 4))]
        links = ["".join(words[: number + 1]).encode() for number in range(len(words))]
        prompts.append((links, [10 * (number + 1) for number in range(len(links))]))
    return prompts


@pytest.mark.parametrize("seed", range(20))
def test_bound_is_the_best_of_all_choices(seed: int) -> None:
    prompts = _prompts(seed)
    best = bounds(prompts, 3)
    for slots in (1, 2, 3):
        assert best[min(slots, len(best)) - 1] == _best_of_all(prompts, slots)
    assert best == sorted(best)
    assert best[-1] <= unlimited(prompts)


def test_a_prefix_is_lost_to_the_prompt_that_uses_it() -> None:
    ab, ac = ([b"a", b"ab"], [10, 20]), ([b"a", b"ac"], [10, 15])
    assert unlimited([ab, ac, ab]) == 10 + 19
    assert bounds([ab, ac, ab], 2) == [10 + 10]  # a second slot saves 19 and costs both tens
