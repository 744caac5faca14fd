"""The syntax of a template's answers: a known format of calls, or what its renderings tell."""

from __future__ import annotations

import msgspec

from ..families import FAMILIES
from ..formats import SPECIAL
from ..templates import ChatTemplate
from .derive import answer_syntax
from .syntax import AnswerSyntax


def syntax_of(template: ChatTemplate) -> AnswerSyntax:
    """Formats that cannot be derived come first; the shipped families know their end tokens and
    the tags of their reasoning."""
    special = (form for form in SPECIAL if form.matches(template.source))
    syntax = answer_syntax(template, next(special, None))
    family = template.family
    if family.reasoning is not None and not syntax.reasoning:
        syntax = msgspec.structs.replace(syntax, reasoning=(family.reasoning,))
    calls = syntax.calls
    own = syntax.stops and family.name not in FAMILIES
    if family.stops and not (own or (calls is not None and calls.reads_reasoning)):
        syntax = msgspec.structs.replace(syntax, stops=family.stops)
    return syntax
