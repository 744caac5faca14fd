"""GBNF grammars: parsing, checking, rendering, matching, and compiling from JSON schemas. Pure."""

from .check import check, matches
from .document import SchemaError, UnsupportedSchema
from .gbnf import render
from .regex import PatternError
from .rules import choice_grammar, pattern_grammar
from .schema import schema_to_grammar
from .values import NEW, OLD, Grammar, GrammarError, GrammarLimits

__all__ = [
    "NEW",
    "OLD",
    "Grammar",
    "GrammarError",
    "GrammarLimits",
    "PatternError",
    "SchemaError",
    "UnsupportedSchema",
    "check",
    "choice_grammar",
    "matches",
    "pattern_grammar",
    "render",
    "schema_to_grammar",
]
