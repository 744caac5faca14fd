"""Grammars of answers that are plain text: one of several texts, or what a pattern matches."""

from __future__ import annotations

from collections.abc import Sequence as Listed

from .automaton import Chars, Concat, Either, Regex
from .regex import read_whole
from .render import render
from .values import NEW, ROOT, Alternatives, CharClass, Element, Grammar, Group, Literal, Repeat


def choice_grammar(choices: Listed[str]) -> str:
    """The GBNF text for an answer that is one of these texts, none of which is empty."""
    return _rendered(tuple((Literal(choice),) for choice in dict.fromkeys(choices)))


def pattern_grammar(pattern: str) -> str:
    """The GBNF text for an answer that matches the pattern as a whole. Raises PatternError."""
    element = _element(read_whole(pattern))
    return _rendered(element.alternatives if isinstance(element, Group) else ((element,),))


def _rendered(root: Alternatives) -> str:
    return render(Grammar({ROOT: root}), NEW)


def _element(regex: Regex) -> Element:
    if isinstance(regex, Chars):
        return CharClass(regex.charset)
    if isinstance(regex, Either):
        return Group(tuple((_element(part),) for part in regex.parts))
    if isinstance(regex, Concat):
        return Group((_joined(regex.parts),))
    return Repeat(_element(regex.part), regex.min, regex.max)


def _joined(parts: Listed[Regex]) -> tuple[Element, ...]:
    """The elements of parts in sequence; single characters side by side are one literal."""
    out: list[Element] = []
    for part in parts:
        char = _single(part)
        if char and out and isinstance(out[-1], Literal):
            out[-1] = Literal(out[-1].text + char)
        else:
            out.append(Literal(char) if char else _element(part))
    return tuple(out)


def _single(part: Regex) -> str:
    """The character that is all that this part matches; "" if there are others."""
    if isinstance(part, Chars) and len(part.charset) == 1:
        low, high = part.charset[0]
        return chr(low) if low == high else ""
    return ""
