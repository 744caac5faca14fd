"""Generates interleaved conversations, and computes the optimum that no policy can beat.

Each conversation has its own system prompt and some turns; the answer of a turn is part of the next
prompt. Texts consist of words of the made-up model, one token each.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from tools.made_up_model import _WORDS


class Conversation:
    """The messages so far; ``ask`` adds the next question, ``answered`` the answer."""

    def __init__(self, number: int, turns: int, seed: int) -> None:
        draw = random.Random(f"{seed}/{number}")
        self.number = number
        self._questions = [_text(draw, draw.randint(70, 120)) for _ in range(turns)]
        self.messages = [{"role": "system", "content": _text(draw, draw.randint(40, 80))}]
        self.prompt_tokens = 0

    def ask(self) -> list[dict[str, str]]:
        self.messages.append({"role": "user", "content": self._questions.pop(0)})
        return list(self.messages)

    def answered(self, text: str, prompt_tokens: int) -> None:
        self.messages.append({"role": "assistant", "content": text})
        self.prompt_tokens = prompt_tokens


def _text(draw: random.Random, words: int) -> str:
    return " ".join(draw.choice(_WORDS) for _ in range(words))


def order(conversations: int, turns: int, active: int, at_once: int, seed: int) -> list[int]:
    """Return whose turn it is, by number: drawn from the active conversations, except the last
    ``at_once`` drawn. A finished conversation is replaced by the next."""
    draw = random.Random(seed)
    left = dict.fromkeys(range(active), turns)
    coming = iter(range(active, conversations))
    numbers: list[int] = []
    while left:
        recent = numbers[-(at_once - 1) :] if at_once > 1 else []
        choice = [number for number in left if number not in recent] or list(left)
        number = draw.choice(choice)
        numbers.append(number)
        left[number] -= 1
        if not left[number]:
            del left[number]
            following = next(coming, None)
            if following is not None:
                left[following] = turns
    return numbers


def evaluated(turns: Sequence[int], sizes: Sequence[Sequence[int]], slots: int, how: str) -> float:
    """Return the evaluated prompt tokens as a multiple of each conversation's tokens counted once,
    for an eviction that knows the past (``lru``) or the future (``belady``). ``sizes[c][t]`` are
    the prompt tokens of conversation c at turn t; answers are cached with their prompts."""
    held: dict[int, int] = {}  # conversation to its last use
    done = [0] * len(sizes)
    total = 0
    for now, number in enumerate(turns):
        size = sizes[number][done[number]]
        before = sizes[number][done[number] - 1] if done[number] else 0
        total += size - before if number in held else size
        done[number] += 1
        if number not in held and len(held) >= slots:
            if how == "lru":
                victim = min(held, key=held.__getitem__)
            else:
                later = turns[now + 1 :]
                victim = max(held, key=lambda c: later.index(c) if c in later else len(turns))
            del held[victim]
        held[number] = now
    return total / sum(size[-1] for size in sizes)
