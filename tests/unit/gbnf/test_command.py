"""Grammars on the command line, and the examples of the package's README."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proxy.gbnf import NEW, OLD, check, matches
from proxy.gbnf.__main__ import main

README = Path(__file__).parents[3] / "proxy" / "gbnf" / "README.md"
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "s": {"type": "string", "maxLength": 3}},
    "required": ["n"],
    "additionalProperties": False,
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("schema.json").write_text(json.dumps(SCHEMA), "utf-8")
    Path("list.gbnf").write_text('root ::= item ("," item){0,2}\nitem ::= [ab]\n', "utf-8")
    return tmp_path


def test_schema_is_printed_as_a_grammar_for_each_generation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, limits in (("2026", NEW), ("2023", OLD)):
        assert main(["--limits", name, "schema.json"]) == 0
        grammar = check(capsys.readouterr().out, limits)
        assert matches(grammar, '{"n":5,"s":"abc"}')
        assert not matches(grammar, '{"n":5,"s":"abcd"}')


def test_grammar_is_printed_as_an_old_server_reads_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--limits", "2023", "list.gbnf"]) == 0
    grammar = check(capsys.readouterr().out, OLD)
    assert matches(grammar, "a,b,a")
    assert not matches(grammar, "a,b,a,b")


def test_standard_input_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"const": 1}'))
    assert main(["-"]) == 0
    assert capsys.readouterr().out == 'root ::= number\nnumber ::= "1"\n'


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("a.gbnf", 'root ::= "a" | list\nlist ::= list "," "a"\n', "a.gbnf:2:1: left recursion"),
        ("a.gbnf", 'root ::= "a" b', "a.gbnf:1:14: rule 'b' is not defined"),
        ("a.gbnf", 'root ::= "a', "a.gbnf:1:10: unterminated string"),
        ("a.json", '{"$ref": "http://a/b"}', "a.json: '$ref' at /$ref is not supported"),
        ("a.json", '{"type": "wrong"}', "a.json: invalid schema at its root"),
        ("a.json", '{"type":\n x}', "a.json:2:2: not JSON"),
        ("a.json", "[" * 100_000, "a.json: it is nested too deeply"),
    ],
)
def test_check_says_what_is_wrong_and_where(
    name: str, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_text(text, "utf-8")
    assert main(["--check", name]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def test_lenient_grammar_leaves_out_what_it_cannot_express(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("a.json").write_text('{"type": "array", "uniqueItems": true}', "utf-8")
    assert main(["a.json"]) == 1
    assert main(["--lenient", "a.json"]) == 0
    out, err = capsys.readouterr()
    assert matches(check(out, NEW), "[7,7]")
    assert err.endswith("\na.json: left out: uniqueItems\n")


def test_open_grammar_has_undeclared_members(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.json").write_text('{"properties": {"a": {"const": 1}}}', "utf-8")
    Path("more.json").write_text('{"a": 1, "b": 2}', "utf-8")
    assert main(["--match", "more.json", "a.json"]) == 1
    assert main(["--open", "--match", "more.json", "a.json"]) == 0
    assert main(["--open", "--match", "more.json", "schema.json"]) == 1


@pytest.mark.parametrize(
    "file, instance, said",
    [
        ("schema.json", {"n": 5, "s": "é"}, ""),
        ("schema.json", {"n": "x"}, """after '{"n":', '"' is not allowed"""),
        ("schema.json", [], "at its beginning, '[' is not allowed"),
        ("list.gbnf", "a,b\n", ""),
        ("list.gbnf", "a,", "it ends too early, after 'a,'"),
        ("list.gbnf", "a\n\n", r"""after 'a', '\n' is not allowed"""),
    ],
)
def test_match_says_where_an_instance_differs(
    file: str, instance: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = instance if isinstance(instance, str) else json.dumps(instance, indent=1)
    Path("instance").write_text(text, "utf-8")
    assert main(["--match", "instance", file]) == (1 if said else 0)
    assert said in capsys.readouterr().err


def test_file_that_cannot_be_read_has_an_exit_code_of_its_own(folder: Path) -> None:
    (folder / "a.json").write_bytes(b"\xff")
    for name in ("none.json", "a.json"):
        command = [sys.executable, "-m", "proxy.gbnf", str(folder / name)]
        done = subprocess.run(command, cwd=README.parents[2], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert name in done.stderr
    with pytest.raises(SystemExit) as refused:
        main(["--check", "--match", "x", "schema.json"])
    assert refused.value.code == 2


def test_examples_of_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    text = README.read_text("utf-8")
    for example in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(example, str(README), "exec"), {})
    Path("grammar.gbnf").write_text('root ::= "a"\n', "utf-8")
    Path("answer.txt").write_text("a\n", "utf-8")
    Path("instance.json").write_text('{"n": 1}', "utf-8")
    commands = re.findall(r"^python -m proxy\.gbnf (.*?) +#", text, re.MULTILINE)
    assert len(commands) == 8
    for command in commands:
        assert main(command.split()) == 0
    Path("list.gbnf").write_text('root ::= "a" | list\nlist ::= list "," "a"\n', "utf-8")
    capsys.readouterr()
    assert main(["--check", "list.gbnf"]) == 1
    assert capsys.readouterr().err in text
