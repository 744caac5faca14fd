"""The GBNF reader and its checks: grammars that servers accept, and those that crash them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proxy.gbnf import NEW, OLD, GrammarError, GrammarLimits, check, matches, render
from proxy.gbnf.check import MOST_WAYS, checked_render
from proxy.gbnf.gbnf import MAX_NESTING, MAX_TEXT
from proxy.gbnf.values import (
    ANY_CHAR,
    CharClass,
    Grammar,
    Group,
    Literal,
    Repeat,
    RuleRef,
)
from tests.thorough import share
from tests.unit.gbnf import samples

BOTH = pytest.mark.parametrize("limits", [OLD, NEW], ids=lambda limits: limits.name)
A = Literal("a")


def fault(call: Callable[[], object]) -> str:
    """What is wrong with a grammar, "" for nothing."""
    try:
        call()
    except GrammarError as error:
        return error.what
    return ""


def rules(*root: tuple[object, ...], **others: object) -> dict[str, object]:
    return {"root": root, **others}


@BOTH
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('root ::= "a"', rules((A,))),
        ('root ::= "a" | "b"\n', rules((A,), (Literal("b"),))),
        ("root ::=", rules(())),
        ('root ::= ""', rules(())),
        ('root ::= "a" |', rules((A,), ())),
        ('# first\n\n  root\t::=\n\n "a" # last\n# end', rules((A,))),
        ('root ::= "a" |\n  "b"', rules((A,), (Literal("b"),))),
        (
            'root ::= ( "a"\n | "b"\r\n "c" )\n',
            rules((Group(((A,), (Literal("b"), Literal("c")))),)),
        ),
        (
            'root ::= "a"* "a"+ "a" ?',
            rules((Repeat(A, 0, None), Repeat(A, 1, None), Repeat(A, 0, 1))),
        ),
        (r'root ::= "\x41\u4E2d\U0001F600\t\r\n\\\"\[\]"', rules((Literal('A中😀\t\r\n\\"[]'),))),
        ('root ::= "中\n"', rules((Literal("中\n"),))),
        ("root ::= [a-z0-9_-]", rules((CharClass(((97, 122), (48, 57), (95, 95), (45, 45))),))),
        ("root ::= [^-a]", rules((CharClass(((45, 45), (97, 97)), negated=True),))),
        (r"root ::= [+--\]\n]", rules((CharClass(((43, 45), (93, 93), (10, 10))),))),
        (
            "root ::= 0-a\r\n0-a ::= [a]\r",
            {"root": ((RuleRef("0-a"),),), "0-a": ((CharClass(((97, 97),)),),)},
        ),
        ('root ::= "" "a" ""', rules((A,))),
        ("root ::= (([a]))", rules((Group(((Group(((CharClass(((97, 97),)),),)),),)),))),
    ],
)
def test_grammar_for_both_servers_is_accepted(
    limits: GrammarLimits, text: str, expected: dict[str, object]
) -> None:
    assert check(text, limits).rules == expected


@pytest.mark.parametrize(
    ("text", "element"),
    [
        ("root ::= .", ANY_CHAR),
        (r"root ::= [a\-z]", CharClass(((97, 97), (45, 45), (122, 122)))),
        ('root ::= "a"{3}', Repeat(A, 3, 3)),
        ('root ::= "a"{2,}', Repeat(A, 2, None)),
        ('root ::= "a"{0,5}', Repeat(A, 0, 5)),
        ('root ::= "a" { 1 , 5 } ', Repeat(A, 1, 5)),
        ('root ::= "a"{2000}', Repeat(A, 2000, 2000)),
    ],
)
def test_grammar_for_new_server_only_is_refused_for_old(text: str, element: object) -> None:
    assert check(text, NEW).rules == rules((element,))
    with pytest.raises(GrammarError):
        check(text, OLD)


def test_zero_repetition_is_empty() -> None:
    assert check('root ::= "b" "a"{0}', NEW).rules == rules((Literal("b"),))


@BOTH
@pytest.mark.parametrize(
    ("text", "line", "column", "what"),
    [
        ("", 1, 1, "no rule 'root'"),
        ('start ::= "a"', 1, 14, "no rule 'root'"),
        ('root = "a"', 1, 6, "expected '::='"),
        ('root\n::= "a"', 1, 5, "expected '::='"),
        ('root ::= "a"\n  | "b"', 2, 3, "expected a rule name"),
        ('root ::= "a" |\nb ::= "b"', 2, 3, "expected an element or the end of the line"),
        ('root ::=\nb ::= "b"', 2, 3, "expected an element or the end of the line"),
        ('root ::= "a', 1, 10, "unterminated string"),
        ("root ::= [a", 1, 10, "unterminated character class"),
        ("root ::= [a-", 1, 10, "unterminated character class"),
        ('root ::= ("a"', 1, 14, "expected ')' to close the '(' at line 1, column 10"),
        ('root ::= "a")', 1, 13, "expected an element or the end of the line"),
        ("root ::= *", 1, 10, "nothing to repeat before '*'"),
        ('root ::= "a" | +', 1, 16, "nothing to repeat before '+'"),
        ('root ::= "a" ""?', 1, 16, "nothing to repeat before '?'"),
        (r'root ::= "\q"', 1, 11, "unknown escape"),
        (r'root ::= "\x4"', 1, 11, "hexadecimal digits"),
        (r'root ::= "\u12G4"', 1, 11, "hexadecimal digits"),
        (r'root ::= "\U00110000"', 1, 11, "not a character"),
        (r'root ::= "\x00"', 1, 11, "never be generated"),
        (r'root ::= "\uD800"', 1, 11, "never be generated"),
        ('root ::= "\0"', 1, 11, "is not allowed"),
        ('root ::= "\ud800"', 1, 11, "is not allowed"),
        ("root ::= []", 1, 10, "empty character class"),
        ("root ::= [z-a]", 1, 11, "reverse order"),
        (r"root ::= [\uD800-\uDFFF]", 1, 10, "matches no character"),
        (r"root ::= [^\x00-\U0010FFFF]", 1, 10, "matches no character"),
        (r"root ::= [^\x00-\x7f\u4E2D-\U0010FFFF\u0080-\u4000]", 1, 10, "matches no character"),
        ("root ::= a", 1, 10, "rule 'a' is not defined"),
        ('root ::= "a"\nb ::= c', 2, 7, "rule 'c' is not defined"),
        ('root ::= "a"\nroot ::= "b"', 2, 1, "defined twice"),
        ('root ::= root "a" | "b"', 1, 1, "left recursion: root -> root"),
        ('root ::= a\na ::= b\nb ::= "x"? a | "c"', 2, 1, "left recursion: a -> b -> a"),
        ('root ::= a\na ::= e e (a "x" | "y")\ne ::= "e" | ""', 2, 1, "left recursion"),
        ('root ::= "x" a\na ::= ("b"* a)? "c"', 2, 1, "left recursion"),
        ('root ::= "a"**', 1, 1, "unbounded repetition"),
        ("root ::= ()*", 1, 1, "unbounded repetition"),
        ('root ::= "x"\na ::= b+\nb ::= "" | "c"', 2, 1, "unbounded repetition"),
        ('root ::= "a" root', 1, 1, "can never terminate"),
        ('root ::= "a" | b\nb ::= "(" b ")"', 2, 1, "can never terminate"),
        ("root ::= <tool_call>", 1, 10, "token elements"),
        ("root ::= !<[12]>", 1, 10, "token elements"),
        ("root ::= " + "(" * (MAX_NESTING + 1), 1, 10 + MAX_NESTING, "nested deeper"),
        ("#" * (MAX_TEXT + 1), 1, 1, "longer than"),
    ],
)
def test_invalid_grammar_is_refused(
    limits: GrammarLimits, text: str, line: int, column: int, what: str
) -> None:
    with pytest.raises(GrammarError) as caught:
        check(text, limits)
    assert what in caught.value.what
    assert (caught.value.line, caught.value.column) == (line, column)


@pytest.mark.parametrize(
    ("repetition", "what"),
    [
        ('"a"{2001}', "more than 2000 rules"),
        ('"a"{0,2001}', "more than 2000 rules"),
        ('"a"{50}{50}', "more than 2000 rules"),
        ('("a"{0,50} "b"){0,50}', "more than 2000 rules"),
        ('"a"{3,2}', "the minimum exceeds the maximum"),
        ('"a"{,2}', "expected a number"),
        ('"a"{2', "expected '}'"),
        ('"a"{99999999999}', "number too large"),
        ('"b" {0} *', "nothing to repeat before '*'"),
        ('("a"?){2,}', "unbounded repetition"),
    ],
)
def test_invalid_repetitions_are_refused(repetition: str, what: str) -> None:
    with pytest.raises(GrammarError, match=what):
        check("root ::= " + repetition, NEW)


def test_long_rule_chains_are_walked_without_recursion() -> None:
    chain = "".join(f'r{at} ::= r{at + 1} | "{at}"\n' for at in range(3000))
    assert len(check(f'root ::= r0\n{chain}r3000 ::= "x"', NEW).rules) == 3002


def test_grammar_with_too_many_starts_is_refused() -> None:
    doubling = "".join(f'r{at} ::= r{at + 1} | r{at + 1} "x"\n' for at in range(14))
    with pytest.raises(GrammarError, match="paths to the first character"):
        check(f'root ::= r0\n{doubling}r14 ::= "x"', NEW)


@pytest.mark.parametrize(
    "text", ['root ::= ("a" | "a")*', "root ::= " + '"a"? ' * 40, 'root ::= "a" root root | "a"']
)
def test_exponentially_ambiguous_grammar_is_refused_for_old_server(text: str) -> None:
    check(text, NEW)
    with pytest.raises(GrammarError, match="too ambiguous"):
        check(text, OLD)


@settings(max_examples=share(30))
@given(st.data())
def test_written_grammar_reads_back_the_same(data: st.DataObject) -> None:
    grammar = samples.random_grammar(lambda below: data.draw(st.integers(0, below - 1)))
    try:
        read = check(render(grammar, NEW), NEW)
    except GrammarError as error:
        assume("expected" in error.what)  # the behaviour of random rules is not under test
        raise
    assert check(render(read, NEW), NEW) == read
    for seed in range(3):
        text = samples.Sampler(read, random.Random(seed)).text(30)
        assert matches(grammar, text)
        try:
            old = check(render(grammar, OLD), OLD)
        except GrammarError as error:
            assert "too ambiguous" in error.what
        else:
            assert matches(old, text)
            other = samples.Sampler(old, random.Random(seed)).text(30)
            assert matches(grammar, other)


def test_written_grammar_has_no_characters_that_end_it() -> None:
    for grammar in (Grammar({"root": ((Literal(f"a{char}"),),)}) for char in "\0\ud800"):
        assert "can never be generated" in fault(partial(checked_render, grammar, NEW))


def test_ways_to_begin_a_written_rule_are_bounded() -> None:
    def found(ways: int) -> str:
        grammar = Grammar({"root": tuple((Literal(f"a{number}"),) for number in range(ways))})
        return fault(lambda: checked_render(grammar, NEW))

    assert found(MOST_WAYS) == ""
    assert "more than 200 paths" in found(MOST_WAYS + 1)


def test_counted_repetition_is_expanded_for_old_server() -> None:
    grammar = Grammar({"root": ((Repeat(Literal("ab"), 2, 4), ANY_CHAR, Repeat(A, 3, None)),)})
    text = render(grammar, OLD)
    assert "{" not in text and "." not in text
    read = check(text, OLD)
    for times in range(7):
        assert matches(read, "ab" * times + "-aaa") == (2 <= times <= 4)
    assert not matches(read, "abab-aa")


def test_generated_rule_names_do_not_collide() -> None:
    taken = {"r1": ((A,),), "part1": ((A,),)}
    root = (Repeat(RuleRef("r1"), 0, 3), Repeat(Literal("a long literal text"), 2, 2))
    read = check(render(Grammar({"root": (root,), **taken}), OLD), OLD)
    assert matches(read, "aaa" + "a long literal text" * 2)


def test_example_of_the_readme() -> None:
    readme = Path(render.__globals__["__file__"]).with_name("README.md")
    for example in re.findall(r"```python\n(.*?)```", readme.read_text("utf-8"), re.DOTALL):
        exec(compile(example, str(readme), "exec"), {})
