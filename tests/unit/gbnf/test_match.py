"""The recogniser: whole texts, their beginnings, and cheap counts."""

from __future__ import annotations

import pytest

from proxy.gbnf import NEW, check, matches
from proxy.gbnf.check import states_after

JSON = check(
    r"""
root ::= object
value ::= object | "[" (value ("," value)*)? "]" | string | [0-9]+ | "null"
object ::= "{" (string ":" value ("," string ":" value)*)? "}"
string ::= "\"" ([^"\\\x00-\x1f] | "\\" ["\\n])* "\""
""",
    NEW,
)
TEXT = '{"a":[1,20,{"b":null}],"中😀":"x\\n"}'


def test_every_valid_prefix_can_continue_and_no_wrong_one_can() -> None:
    assert matches(JSON, TEXT)
    for end in range(len(TEXT)):
        assert states_after(JSON, TEXT[:end])
        assert not states_after(JSON, TEXT[:end] + "\x01")


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ('root ::= ""', [""], ["a"]),
        ('root ::= "a"{2,3}', ["aa", "aaa"], ["", "a", "aaaa"]),
        ('root ::= ("a" | "b"){2,}', ["ab", "bbbbb"], ["a", "abc"]),
        ('root ::= ("a"?){0,3} "b"', ["b", "aaab"], ["aaaab"]),
        ("root ::= .{3}", ["中\n😀"], ["ab", "abcd"]),
        ("root ::= [^a-c\\n]", ["d", "中"], ["a", "c", "\n", ""]),
        ('root ::= "(" root ")" | "."', [".", "((.))"], ["((.)", "(.))"]),
        ('root ::= "a" root "a" | "a"', ["aaa", "a"], ["aa", "aaaa"]),
        ('root ::= a{2000}\na ::= "x"', ["x" * 2000], ["x" * 1999, "x" * 2001]),
    ],
)
def test_grammars_accept_exactly_their_language(text: str, good: list[str], bad: list[str]) -> None:
    grammar = check(text, NEW)
    assert all(matches(grammar, one) for one in good)
    assert not any(matches(grammar, one) for one in bad)


def test_deep_texts_and_ambiguous_grammars_are_matched() -> None:
    grammar = check('root ::= "(" root ")" | "."', NEW)
    assert matches(grammar, "(" * 20_000 + "." + ")" * 20_000)
    assert matches(check('root ::= ("a" | "a")* ("a"* "b")?', NEW), "a" * 5_000 + "b")
