"""Broken prompts, with tokenizers that find special tokens and may add a space before a text."""

from __future__ import annotations

import re

import pytest

from proxy.backends.tokens import AT_ONCE, BOS, LONG, BrokenPrompts, Part, TokenCounter
from proxy.core.task import Task
from proxy.errors import ContextExceeded, UpstreamFault
from proxy.runtime.cancel import Cancel
from tests.fakes import ScriptedDriver

SPECIAL = ("<end>", "<user>", "<bot>")
ENDS = ("plain", "<end>")
TEXT = "<user>hi<end><user>a <end> b<end><bot>"
BREAK = TEXT.index(" <end>") + 2


class Server:
    """A special token is its negative place in `SPECIAL` less ten, another character itself. With
    `prefix`, a text that begins with a character gets a space before it. `joined` are pairs of
    characters that become one token."""

    def __init__(self, prefix: bool = False, joined: str = "") -> None:
        self.prefix = prefix
        self.joined = joined
        self.calls: list[list[Part]] = []

    def text_ids(self, text: str) -> list[int]:
        found = re.split(f"({'|'.join(SPECIAL)})", text)
        if self.prefix and found[0]:
            found[0] = " " + found[0]
        ids = []
        for part in found:
            if part in SPECIAL:
                ids.append(-10 - SPECIAL.index(part))
            else:
                pattern = f"{self.joined}|." if self.joined else "."
                for token in re.findall(pattern, part, re.DOTALL):
                    ids.append(ord(token[0]) if len(token) == 1 else 1 << 20)
        return ids

    def tokenize(self, parts: list[Part], cancel: Cancel | None = None) -> list[int]:
        if cancel is not None:
            cancel.check()
        self.calls.append(parts)
        return [
            token
            for part in parts
            for token in ([part] if isinstance(part, int) else self.text_ids(part))
        ]


def text_of(ids: list[int]) -> str:
    return "".join(SPECIAL[-10 - token] if token < 0 else chr(token) for token in ids)


@pytest.mark.parametrize("prefix", [False, True])
def test_text_is_the_same_and_the_broken_token_is_none(prefix: bool) -> None:
    server = Server(prefix)
    parts = BrokenPrompts(server.tokenize).parts(TEXT, [BREAK], ENDS)
    ids = server.tokenize(parts)
    assert text_of(ids) == TEXT
    assert len([token for token in ids if token < 0]) == 5
    assert len([token for token in server.text_ids(TEXT) if token < 0]) == 6
    assert parts[0] == TEXT[:BREAK] and parts[-1] == "<end><bot>"
    assert any(isinstance(part, int) for part in parts)


@pytest.mark.parametrize("prefix", [False, True])
def test_every_break_of_many_messages(prefix: bool) -> None:
    server = Server(prefix)
    text = "".join(f"<user>é{number}<end>\n<user>🎉<end>" for number in range(50)) + "<bot>"
    breaks = [match.start() + 1 for match in re.finditer(r"(?<=[é\d])<end>\n|(?<=\n)<user>", text)]
    assert len(breaks) == 100
    prompts = BrokenPrompts(server.tokenize)
    parts = prompts.parts(text, breaks, ENDS)
    assert len(server.calls) == len(ENDS) + 1
    ids = server.tokenize(parts)
    assert text_of(ids) == text
    assert sum(token < 0 for token in ids) == 101
    prompts.parts(text, breaks, ENDS)
    assert len(server.calls) == len(ENDS) + 3  # which texts are tokens is known


def test_without_an_end_of_turn_the_rest_becomes_ids() -> None:
    server = Server(prefix=True)
    for ends in ((), ("plain",)):
        first, *ids = BrokenPrompts(server.tokenize).parts(TEXT, [BREAK], ends)
        assert first == TEXT[:BREAK]
        assert text_of([token for token in ids if isinstance(token, int)]) == TEXT[BREAK:]


def test_end_of_turn_at_the_very_break_leaves_no_list_of_texts_alone() -> None:
    """Which a newer server would take for several prompts."""
    at = TEXT.rindex("<end>")
    parts = BrokenPrompts(Server().tokenize).parts(TEXT, [at], ENDS)
    assert any(isinstance(part, int) for part in parts)


def test_next_turn_begins_with_the_same_tokens() -> None:
    server = Server(prefix=True)
    prompts = BrokenPrompts(server.tokenize)
    first = server.tokenize(prompts.parts(TEXT, [BREAK], ENDS))
    longer = f"{TEXT}fine<end><user>c <user> d<end><bot>"
    breaks = [BREAK, longer.index("<user> d") + 1]
    second = server.tokenize(prompts.parts(longer, breaks, ENDS))
    assert second[: len(first)] == first
    assert text_of(second) == longer


def test_other_lead_where_the_text_takes_in_the_line_feed() -> None:
    server = Server(joined="\nend")
    text = "<user><end>\n<end>"
    parts = BrokenPrompts(server.tokenize).parts(text, [7], ENDS)
    assert parts == ["<user><", *map(ord, "end>\n"), "<end>"]


def test_tokenizer_that_takes_in_every_lead_is_a_fault() -> None:
    server = Server(joined=r"[\n.0]e")
    with pytest.raises(UpstreamFault, match="middle of a text"):
        BrokenPrompts(server.tokenize).parts("<user><end>", [7], ())


def test_server_without_lists_is_a_fault_and_never_a_prompt() -> None:
    with pytest.raises(UpstreamFault, match="invalid tokens"):
        BrokenPrompts(lambda parts, cancel: [1, 2]).parts(TEXT, [BREAK], ())


def test_long_texts_are_tokenized_in_several_calls() -> None:
    server = Server(prefix=True)
    words = "word " * LONG
    text = f"<user><end>{words}<end>" + "<end>" * (AT_ONCE + 1)
    breaks = [7, *(len(text) - 5 * n + 1 for n in range(AT_ONCE + 1, 0, -1))]
    parts = BrokenPrompts(server.tokenize).parts(text, breaks, ("<end>",))
    sizes = [sum(len(p) for p in call if isinstance(p, str)) for call in server.calls]
    assert max(sizes) < LONG + 2 * AT_ONCE
    assert text_of(server.tokenize(parts)) == text
    longer = BrokenPrompts(server.tokenize).parts(text + "x", breaks, ("<end>",))
    assert longer[: len(parts) - 1] == parts[:-1]


# counting


class Driver(ScriptedDriver):
    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.broken = BrokenPrompts(server.tokenize)

    def tokenize(self, text: str, special: bool = False, cancel: Cancel | None = None) -> list[int]:
        return self.server.tokenize([text], cancel)

    def in_parts(self, task: Task, cancel: Cancel | None = None) -> list[Part]:
        assert isinstance(task.prompt, str)
        return self.broken.parts(task.prompt, task.breaks, task.stop_tokens, cancel)


@pytest.mark.parametrize("prefix", [False, True])
def test_count_is_of_the_tokens_that_are_sent(prefix: bool) -> None:
    server = Server(prefix)
    driver = Driver(server)
    counter = TokenCounter(driver)
    text = TEXT + "".join(f"x<end><user>{'word ' * 4000}<end> y<end><bot>" for _ in range(3))
    at = [match.start() + 1 for match in re.finditer("<end> y", text)]
    task = Task(prompt=text, breaks=(BREAK, *at), stop_tokens=ENDS)
    exact = len(server.tokenize(driver.in_parts(task))) + BOS
    count = counter.count_prompt(task)
    assert exact <= count <= exact + len(text) // 4000, "a cut may cost a token"
    assert len(counter.prompt_ids(task)) + BOS == exact
    asked = len(server.calls)
    assert counter.count_prompt(task) == count
    assert len(server.calls) == asked
    with pytest.raises(ContextExceeded):
        counter.count_prompt(task, limit=exact)
    asked = len(server.calls)
    with pytest.raises(ContextExceeded):
        TokenCounter(driver).count_prompt(task, limit=len(task.breaks))
    assert len(server.calls) == asked  # as many tokens as breaks are certain
