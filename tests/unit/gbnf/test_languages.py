"""Patterns, formats and number ranges as automata, against re and plain arithmetic."""

from __future__ import annotations

import random
import re
import unicodedata
from decimal import Decimal

import pytest

from proxy.gbnf import automaton as rx
from proxy.gbnf import json_types, regex
from proxy.gbnf.numbers import NumberBound, Range, integers, numbers
from proxy.gbnf.regex import PatternError, read_pattern

PATTERNS = [
    "foo",
    "^a|b$",
    "(^a$|^b)",
    "^(?:ab?|c{2,3})*?d$",
    "^(?<year>[0-9]{2})+$",
    r"^[\w.-]+@\d{2}$",
    r"\.$",
    r"^[^\s\d]*$",
    r"^\x61\u0062[\]\\^-]\/$",
    "^[a-c-]+$",
    "^$",
    "a.c",
    "",
    r"^\t\n[\b]?$",
    "^(a|b)*abb$",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pattern_matches_where_re_matches(pattern: str) -> None:
    language = rx.compile_regex(read_pattern(pattern))
    source = random.Random(pattern)
    python = pattern.replace("?<", "?P<").removesuffix("$") + ("\\Z" if pattern[-1:] == "$" else "")
    python = python.replace("$|", "\\Z|")
    for _ in range(400):
        text = "".join(source.choice("aabbcd01.@-]^\\/ \t\nfo") for _ in range(source.randrange(7)))
        assert language.accepts(text) == bool(re.search(python, text)), text


@pytest.mark.parametrize(
    ("pattern", "unsupported"),
    [
        ("a(?=b)", True),
        ("(?<!b)", True),
        (r"(a)\1", True),
        (r"\bfoo", True),
        (r"\p{L}", True),
        ("a^b", True),
        ("a$b", True),
        ("(?i)a", True),
        ("[\\d-z]", True),
        ("a{2001}", True),
        (r"\ud83d", True),
        (r"\q", True),
        ("(" * 60 + ")" * 60, True),
        ("(", False),
        ("a)", False),
        ("[z-a]", False),
        ("[a", False),
        ("*a", False),
        ("a**", False),
        ("a{3,2}", False),
        ("a{x}", False),
        ("[]", False),
        (r"\x4", False),
        ("a\\", False),
    ],
)
def test_non_regular_pattern_is_refused(pattern: str, unsupported: bool) -> None:
    with pytest.raises(PatternError) as caught:
        read_pattern(pattern)
    assert caught.value.unsupported is unsupported


def test_character_classes_hold_only_what_every_validator_accepts() -> None:
    for chars, wrong in (
        (regex._NEVER_DIGIT, lambda char: unicodedata.category(char) == "Nd"),
        (regex._NEVER_WORD, lambda char: re.match(r"\w", char)),
        (regex._SPACE_SURE, lambda char: not re.match(r"\s", char)),
        (regex._NEVER_SPACE, lambda char: re.match(r"\s", char)),
    ):
        for low, high in chars:
            assert not any(wrong(chr(code)) for code in range(low, min(high, 0x1FBFF) + 1))


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date", ["2024-02-29", "2023-12-31"], ["2023-02-29", "2100-02-29", "2023-13-01"]),
        ("time", ["23:59:59Z", "00:00:00.1+23:59"], ["24:00:00Z", "12:00:00", "12:00Z"]),
        ("date-time", ["1999-01-01T00:00:00Z"], ["1999-01-01 00:00:00Z", "1999-01-01"]),
        ("uuid", ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567e89b12d3a456426614174000"]),
        ("email", ["a.b+c@d.example"], ["a@", "@b", "a..b@c", "a b@c", "a@-b"]),
        ("duration", ["P1Y2M3DT4H", "PT0S", "P2W", "P1M"], ["P", "PT", "1Y", "P1D2Y", "P1W2D"]),
        ("idn-email", ["用户@例子.中国"], ["@例子", "a@"]),
        ("hostname", ["a", "a-1.example.com"], ["", "-a", "a.", "a_b", "a..b"]),
        ("idn-hostname", ["例子.中国"], ["", "-例"]),
        (
            "ipv6",
            ["::", "::1", "1::", "2001:db8::8a2e:370:7334", "1:2:3:4:5:6:7:8", "::ffff:1.2.3.4"],
            ["", ":", "1:2", "1::2::3", "12345::", "1:2:3:4:5:6:7:8:9", "1.2.3.4", ":::"],
        ),
        (
            "uri",
            ["http://a.b/c?d=e#f", "urn:isbn:1", "mailto:a@b.c", "file:///x", "a://u:p@h:80"],
            ["", "a", "/a", "//a", "http://a b", "http://a/\\b", "1a:b", "a:%zz", "http://[::1"],
        ),
        ("uri-reference", ["", "/a/b", "//h/p", "a?b#c", "#x", "http://a"], ["a b", "%", "1:2"]),
        ("iri", ["http://例子.中国/路"], ["http://例 子", "/路"]),
        ("iri-reference", ["/路", ""], ["a\\b"]),
        ("uri-template", ["/a/{b}{?c,d*}", ""], ["/a/{b", "}", "{}"]),
        ("json-pointer", ["", "/a/b~0c~1/0"], ["a", "/~2"]),
        ("relative-json-pointer", ["0", "1/a", "2#"], ["/a", "01", "-1"]),
        ("regex", ["^[a-z]+$", "(a|(?:b)*)?", "\\d{2,}", "a|^b$", ""], ["(", ")", "[a", "*", "a{"]),
        ("ipv4", ["0.0.0.0", "255.249.99.1"], ["256.0.0.1", "1.2.3", "01.2.3.4"]),
    ],
)
def test_format_grammars(name: str, good: list[str], bad: list[str]) -> None:
    language = rx.compile_regex(read_pattern(json_types.PATTERNS[name]))
    assert all(language.accepts(text) for text in good)
    assert not any(language.accepts(text) for text in bad)


def test_integer_ranges_are_exact() -> None:
    source = random.Random(3)
    for _ in range(60):
        low, high = sorted(source.randint(-1500, 1500) // source.choice([1, 50]) for _ in "ab")
        step = source.choice([None, 1, 3, 10])
        within = Range(
            NumberBound(Decimal(low), source.random() < 0.3),
            NumberBound(Decimal(high), source.random() < 0.3),
            step,
        )
        language = integers(within)
        for value in {*range(low - 3, low + 40), *range(high - 40, high + 4)}:
            assert language.accepts(str(value)) == within.holds(Decimal(value)), (within, value)
        assert not language.accepts("-0") and not language.accepts("007")


def test_decimal_ranges_are_exact() -> None:
    source = random.Random(4)
    for _ in range(40):
        ends = [Decimal(source.randint(-3000, 3000)).scaleb(-source.randint(0, 3)) for _ in "ab"]
        low, high = sorted(ends)
        within = Range(
            NumberBound(low, source.random() < 0.3) if source.random() < 0.8 else None,
            NumberBound(high, source.random() < 0.3),
        )
        language = numbers(within)
        tiny = Decimal("0.00001")
        for value in [low, high, low - tiny, low + tiny, high - tiny, high + tiny] + [
            Decimal(source.randint(-4000, 4000)).scaleb(-source.randint(0, 5)) for _ in range(60)
        ]:
            assert language.accepts(f"{value:f}") == within.holds(value), (within, value)


def test_decimals_have_at_most_double_precision() -> None:
    below = numbers(Range(None, NumberBound(Decimal("0.3"), True)))
    assert below.accepts("0.299999999999999")
    assert not below.accepts("0.29999999999999999999")  # read as 0.3


def test_unbounded_numbers_stay_finite() -> None:
    free = numbers(Range())
    for text in ("0", "-1.5e-3", "1e+22", "123456789.125E2", "2.5e289"):
        assert free.accepts(text)
    for text in ("1e999", "9e290", "1.", ".5", "01", "+1", "1e"):
        assert not free.accepts(text)
