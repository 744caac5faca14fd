"""GBNF grammars: parsing, checking, rendering, matching, and compiling from JSON schemas. Pure."""

from .check import check
from .document import SchemaError, UnsupportedSchema
from .match import Matcher, matches
from .render import render
from .schema import schema_to_grammar
from .values import NEW, OLD, Grammar, GrammarError, GrammarLimits

__all__ = [
    "NEW",
    "OLD",
    "Grammar",
    "GrammarError",
    "GrammarLimits",
    "Matcher",
    "SchemaError",
    "UnsupportedSchema",
    "check",
    "matches",
    "render",
    "schema_to_grammar",
]
