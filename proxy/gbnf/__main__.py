"""Grammars on the command line: python -m proxy.gbnf [--check | --match INSTANCE] FILE

FILE is a JSON schema, or a grammar if its name ends in .gbnf; "-" is standard input. Without an
option, the grammar is printed in the form that servers with these limits read.

The exit code is 0 for a success, 1 if the schema or grammar cannot be used or the instance does not
match, and 2 if a file cannot be read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from . import NEW, OLD, GrammarError, Matcher, SchemaError, UnsupportedSchema, check, render
from .automaton import TooManyStatesError
from .document import Document
from .rules import Rules
from .schema import SchemaCompiler, finished
from .values import Grammar, GrammarLimits

LIMITS = {"2023": OLD, "2026": NEW}
SHOWN = 40
"""Characters of an instance in a message."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m proxy.gbnf",
        description="Prints the GBNF grammar of a JSON schema, or examines a grammar.",
    )
    option = parser.add_argument
    option("file", metavar="FILE", help="a JSON schema, or a grammar (.gbnf); -: stdin")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="only say what is wrong, and where")
    what.add_argument("--match", metavar="INSTANCE", help="whether the value or text matches")
    option("--limits", choices=LIMITS, default="2026", help="servers that must read the grammar")
    option("--lenient", action="store_true", help="leave out keywords that have no grammar")
    option("--open", action="store_true", help="allow undeclared members if not forbidden")
    options = parser.parse_args(arguments)
    name = options.file
    try:
        source = _read(name)
        if name.endswith(".gbnf"):
            text = _rewritten(source, LIMITS[options.limits])
        else:
            text = _compiled(source, LIMITS[options.limits], name, options.lenient, options.open)
        if options.match is not None:
            name, grammar = options.match, check(text, LIMITS[options.limits])
            instance = _read(name).removesuffix("\n")
            if not options.file.endswith(".gbnf"):  # as the grammar writes it
                instance = json.dumps(
                    json.loads(instance), ensure_ascii=False, separators=(",", ":")
                )
            if difference := _difference(grammar, instance):
                raise ValueError(f"does not match: {difference}")
        elif not options.check:
            sys.stdout.write(text)
    except (OSError, UnicodeDecodeError) as error:
        print(f"{name}: cannot be read: {error}", file=sys.stderr)
        return 2
    except GrammarError as error:
        print(f"{name}:{error.line}:{error.column}: {error.what}", file=sys.stderr)
    except json.JSONDecodeError as error:
        print(f"{name}:{error.lineno}:{error.colno}: not JSON: {error.msg}", file=sys.stderr)
    except (SchemaError, UnsupportedSchema, ValueError) as error:
        print(f"{name}: {error}", file=sys.stderr)
    except TooManyStatesError:
        print(f"{name}: its grammar would need too many rules", file=sys.stderr)
    except RecursionError:
        print(f"{name}: it is nested too deeply", file=sys.stderr)
    else:
        return 0
    return 1


def _read(name: str) -> str:
    return sys.stdin.read() if name == "-" else Path(name).read_text("utf-8")


def _rewritten(text: str, limits: GrammarLimits) -> str:
    """A grammar that servers of 2026 can read, for servers with these limits."""
    written = render(check(text, NEW), limits)
    check(written, limits)
    return written


def _compiled(text: str, limits: GrammarLimits, name: str, lenient: bool, is_open: bool) -> str:
    """The grammar of a schema. Names the keywords that it leaves out."""
    rules = Rules()
    schema = Document(json.loads(text))
    compiler = SchemaCompiler(schema, rules, limits, strict=not lenient, closed=not is_open)
    grammar = finished(rules, (compiler.root(),), limits)
    if compiler.gaps.keywords:
        print(f"{name}: left out: {', '.join(compiler.gaps.keywords)}", file=sys.stderr)
    return grammar


def _difference(grammar: Grammar, text: str) -> str:
    """Where the text leaves the grammar; "" if it matches."""
    matcher = Matcher(grammar)
    for at, char in enumerate(text):
        if not matcher.feed(char):
            before = f"after {text[:at][-SHOWN:]!r}" if at else "at its beginning"
            return f"{before}, {char!r} is not allowed"
    return "" if matcher.complete else f"it ends too early, after {text[-SHOWN:]!r}"


if __name__ == "__main__":
    sys.exit(main())
