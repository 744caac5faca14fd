"""The automata of patterns, made once for the grammar and for whoever validates."""

from __future__ import annotations

from ...core.kept import Kept, digest
from .automaton import Automaton, compile_regex
from .regex import read_pattern

MEMORY = 16 << 20  # bytes of automata that are kept
_STATE, _EDGE = 80, 200  # bytes each, about

_kept: Kept[Automaton] = Kept(MEMORY)


def automaton_of(pattern: str) -> Automaton:
    """The strings in which the pattern is found. Raises PatternError, TooManyStatesError."""
    key = digest(pattern.encode("utf-8", "surrogatepass"))
    found = _kept.get(key)
    if found is None:
        found = compile_regex(read_pattern(pattern))
        edges = sum(map(len, found.transitions))
        _kept.put(key, found, _STATE * len(found.transitions) + _EDGE * edges)
    return found
