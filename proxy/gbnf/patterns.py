"""The automata of patterns, in a cache that grammars and validation share."""

from __future__ import annotations

from .automaton import Automaton, compile_regex
from .regex import read_pattern

MEMORY = 16 << 20  # bytes of cached automata
_STATE, _EDGE = 80, 200  # approximate bytes of each

_kept: dict[str, tuple[Automaton, int]] = {}  # least recently used first


def automaton_of(pattern: str) -> Automaton:
    """The strings in which the pattern is found. Raises PatternError and TooManyStatesError."""
    known = _kept.pop(pattern, None)
    if known is not None:
        _kept[pattern] = known
        return known[0]
    made = compile_regex(read_pattern(pattern))
    edges = sum(map(len, made.transitions))
    _kept[pattern] = made, 4 * len(pattern) + _STATE * len(made.transitions) + _EDGE * edges
    kept = list(_kept.items())
    room = MEMORY - sum(size for _, (_, size) in kept)
    for oldest, (_, size) in kept:
        if room >= 0:
            break
        _kept.pop(oldest, None)  # another thread may have removed it
        room += size
    return made
