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

from . import (
    NEW,
    OLD,
    GrammarError,
    Matcher,
    SchemaError,
    UnsupportedSchema,
    check,
    render,
)
from .automaton import TooManyStatesError
from .document import Document
from .rules import Rules
from .schema import SchemaCompiler, finished
from .values import Grammar, GrammarLimits

LIMITS = {"2023": OLD, "2026": NEW}
SHOWN = 40
"""Characters of an instance in a message."""


class Refused(Exception):
    """The answer to the question is no; exit code 1."""


class Unreadable(Exception):
    """A file cannot be read; exit code 2."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m proxy.gbnf",
        description="Prints the GBNF grammar of a JSON schema, or examines a grammar.",
    )
    parser.add_argument(
        "file", metavar="FILE", help="a JSON schema, or a grammar (.gbnf); -: stdin"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--check", action="store_true", help="only say what is wrong with it, and where"
    )
    what.add_argument(
        "--match",
        metavar="INSTANCE",
        help="say whether the JSON value of this file matches the schema's grammar; of a grammar,"
        " whether the text does",
    )
    parser.add_argument(
        "--limits",
        choices=LIMITS,
        default="2026",
        help="servers that must be able to read the grammar: llama-server of 2026 (default), or"
        " also those of 2023 and PowerInfer's",
    )
    parser.add_argument(
        "--lenient",
        action="store_true",
        help="leave out keywords that no grammar can express, and name them, instead of refusing"
        " the schema",
    )
    parser.add_argument(
        "--open",
        action="store_true",
        help="allow members that the schema does not declare wherever it does not forbid them",
    )
    asked = parser.parse_args(arguments)
    limits = LIMITS[asked.limits]
    try:
        source = _read(asked.file)
        if asked.file.endswith(".gbnf"):
            grammar = _checked(source, limits, asked.file)
            text = render(grammar, limits)
        else:
            text, gaps = _compiled(
                source, limits, asked.file, strict=not asked.lenient, closed=not asked.open
            )
            if gaps:
                print(f"{asked.file}: left out: {', '.join(gaps)}", file=sys.stderr)
            grammar = check(text, limits)
        if asked.match is not None:
            instance = _read(asked.match).removesuffix("\n")
            if not asked.file.endswith(".gbnf"):
                instance = _compact(instance, asked.match)
            _match(grammar, instance, asked.match)
        elif not asked.check:
            sys.stdout.write(text)
    except Refused as refused:
        print(refused, file=sys.stderr)
        return 1
    except Unreadable as unreadable:
        print(unreadable, file=sys.stderr)
        return 2
    return 0


def _read(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text("utf-8")
    except OSError as error:
        raise Unreadable(f"{name}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Unreadable(f"{name}: is not UTF-8") from None


def _checked(text: str, limits: GrammarLimits, name: str) -> Grammar:
    """A grammar that servers of 2026 can read, and if it is written anew, those with `limits`."""
    try:
        grammar = check(text, NEW)
        if limits is not NEW:
            check(render(grammar, limits), limits)
    except GrammarError as error:
        raise Refused(f"{name}:{error.line}:{error.column}: {error.what}") from None
    return grammar


def _compiled(
    text: str, limits: GrammarLimits, name: str, *, strict: bool, closed: bool
) -> tuple[str, tuple[str, ...]]:
    """The grammar, and the keywords that it leaves out."""
    try:
        rules = Rules()
        compiler = SchemaCompiler(Document(json.loads(text)), rules, limits, strict, closed)
        return finished(rules, (compiler.root(),), limits), compiler.gaps.keywords
    except json.JSONDecodeError as error:
        raise Refused(f"{name}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
    except (SchemaError, UnsupportedSchema) as error:
        raise Refused(f"{name}: {error}") from None
    except TooManyStatesError:
        raise Refused(f"{name}: its grammar would need too many rules") from None
    except RecursionError:
        raise Refused(f"{name}: it is nested too deeply") from None


def _compact(text: str, name: str) -> str:
    """A JSON value as the grammar writes it; the order of its members stays."""
    try:
        return json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise Refused(f"{name}: not JSON: {error}") from None


def _match(grammar: Grammar, text: str, name: str) -> None:
    matcher = Matcher(grammar)
    for at, char in enumerate(text):
        if not matcher.feed(char):
            before = f"after {text[:at][-SHOWN:]!r}" if at else "at its beginning"
            raise Refused(f"{name}: does not match: {before}, {char!r} is not allowed")
    if not matcher.complete:
        raise Refused(f"{name}: does not match: it ends too early, after {text[-SHOWN:]!r}")


if __name__ == "__main__":
    sys.exit(main())
