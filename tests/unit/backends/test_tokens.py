"""Counting and tokenizing long texts, on a tokenizer that is easy to see through."""

from __future__ import annotations

import re
import threading

import pytest

from proxy.backends import pieces
from proxy.backends.driver import Capabilities
from proxy.backends.tokens import AT_ONCE, BOS, LONGEST, MOST, TokenCounter, budget, must_fit
from proxy.cancel import Cancel
from proxy.core.task import Task
from proxy.errors import BadRequest, Cancelled, ContextExceeded
from tests.fakes import ScriptedDriver, wait_until

WORDS = "one two three four " * 4000
OLD = Capabilities(dialect="2023", n_ctx=2048)


class Tokenizer(ScriptedDriver):
    """A token is a mark, or a word with the space before it, or another character. With `prefix`, a
    space is put before each text, as many tokenizers of sentencepiece do."""

    def __init__(self, prefix: bool = False) -> None:
        super().__init__()
        self.prefix = prefix
        self.asked: list[str] = []

    def tokenize(self, text: str, special: bool = False, cancel: Cancel | None = None) -> list[int]:
        if cancel is not None and cancel.cancelled:
            raise Cancelled("the client closed the request")
        self.asked.append(text)
        marked = " " + text if self.prefix else text
        found = re.findall(r"<\|\w+\|>| ?[a-z]+|.", marked, re.DOTALL)
        return [hash(one) % 2**31 for one in found]

    @property
    def long(self) -> list[str]:
        """What was asked but the few characters around a cut."""
        return [one for one in self.asked if len(one) > 2 * pieces.NEAR + 1]


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        WORDS,
        "<|im_start|>user\nhello there<|im_end|>\n" * 1500,
        "中文字符，测试。" * 5000,
        "def f(x):\n    return x\n\n" * 2000,
        "a  b \t\n  c" * 4000,
    ],
    ids=["words", "marks", "chinese", "code", "spaces"],
)
def test_pieces_are_the_whole(text: str, prefix: bool) -> None:
    whole = Tokenizer(prefix).tokenize(text)
    driver = Tokenizer(prefix)
    assert TokenCounter(driver).ids(text) == whole
    assert max(map(len, driver.asked)) <= pieces.SIZE + 1
    assert TokenCounter(driver).count(text) == len(whole) + BOS


def test_short_text_is_one_question() -> None:
    driver = Tokenizer()
    TokenCounter(driver).count("a short one")
    assert driver.asked == ["a short one"]


def test_counting_ends_where_the_context_does() -> None:
    driver = Tokenizer()
    with pytest.raises(ContextExceeded) as caught:
        TokenCounter(driver).count(WORDS, limit=2000)
    assert len(driver.long) == 2, "8192 characters are 1 700 words"
    assert 2000 <= caught.value.extra["n_prompt_tokens"] < 4000  # type: ignore[operator]
    assert "at least" in caught.value.message


def test_counting_ends_when_the_client_leaves() -> None:
    cancel = Cancel()

    class Leaves(Tokenizer):
        def tokenize(
            self, text: str, special: bool = False, cancel: Cancel | None = None
        ) -> list[int]:
            found = super().tokenize(text, special, cancel)
            if len(self.long) == 2:
                leave.cancel()
            return found

    leave, driver = cancel, Leaves()
    with pytest.raises(Cancelled):
        TokenCounter(driver).count(WORDS, cancel)
    assert len(driver.long) == 2


def test_count_is_remembered_until_the_model_changes() -> None:
    driver = Tokenizer()
    counter = TokenCounter(driver)
    first = counter.count(WORDS)
    asked = len(driver.asked)
    assert counter.count(WORDS) == counter.known(WORDS) == first
    assert len(driver.asked) == asked
    counter.clear()
    assert counter.known(WORDS) == 0
    counter.count(WORDS)
    assert len(driver.asked) == 2 * asked


def test_prompt_near_the_limit_is_counted_exactly_where_no_cut_is_safe() -> None:
    """A cut in the middle of a word makes two tokens of one: that must refuse no prompt."""
    text = "x" * 20_000 + " word" * 50
    driver = Tokenizer()
    whole = len(driver.tokenize(text)) + BOS
    assert TokenCounter(driver).count(text, limit=whole + 1) == whole
    with pytest.raises(ContextExceeded) as caught:
        TokenCounter(driver).count(text, limit=whole)
    assert caught.value.extra["n_prompt_tokens"] == whole


def test_ids_of_a_text_that_cannot_be_cut_are_refused() -> None:
    counter = TokenCounter(Tokenizer())
    assert len(counter.ids("x" * LONGEST)) == 1
    with pytest.raises(BadRequest, match="send it in parts"):
        counter.ids("x" * (LONGEST + pieces.SIZE))


def test_ids_end_with_as_many_as_were_asked_for() -> None:
    driver = Tokenizer()
    assert len(TokenCounter(driver).ids(WORDS, most=10)) >= 10
    assert len(driver.long) == 1


def test_huge_text_is_refused_before_the_backend_is_asked() -> None:
    driver = Tokenizer()
    text = "a " * (MOST // 2 + 1)
    for ask in (TokenCounter(driver).ids, TokenCounter(driver).count):
        with pytest.raises(BadRequest, match=f"at most {MOST}"):
            ask(text)
    assert not driver.asked


def test_few_long_texts_are_tokenized_side_by_side() -> None:
    """An old server has eight threads, which completions need too. A client in line may leave."""
    go = threading.Event()

    class Slow(Tokenizer):
        def tokenize(
            self, text: str, special: bool = False, cancel: Cancel | None = None
        ) -> list[int]:
            found = super().tokenize(text, special, cancel)
            go.wait(10)
            return found

    driver = Slow()
    counter = TokenCounter(driver)
    texts = [f"{i} {WORDS}" for i in range(AT_ONCE)]
    threads = [threading.Thread(target=counter.count, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(driver.asked) == AT_ONCE)
    gone = Cancel()
    gone.cancel()
    with pytest.raises(Cancelled):
        counter.count("one more " + WORDS, gone)
    assert len(driver.asked) == AT_ONCE
    go.set()
    for thread in threads:
        thread.join(10)
    assert counter.count("one more " + WORDS) > 1000


def test_prompt_that_fits_by_its_length_is_not_counted() -> None:
    driver = Tokenizer()
    counter = TokenCounter(driver)
    task = Task(prompt="a b c", max_tokens=5)
    assert budget(task, OLD, 2048, counter) == 5
    must_fit(task, 2048, counter)
    assert not driver.asked


def test_budget_is_what_the_context_leaves() -> None:
    counter = TokenCounter(Tokenizer())
    prompt = "word " * 1000  # 1 000 words and the last space
    assert budget(Task(prompt=prompt, max_tokens=5000), OLD, 2048, counter) == 2048 - 1001 - BOS
    with pytest.raises(ContextExceeded):
        must_fit(Task(prompt=prompt), 1001 + BOS, counter)
    must_fit(Task(prompt=prompt), 1002 + BOS, counter)


def test_token_ids_are_counted_without_asking() -> None:
    driver = Tokenizer()
    with pytest.raises(ContextExceeded):
        must_fit(Task(prompt=tuple(range(100))), 100, TokenCounter(driver))
    assert not driver.asked
