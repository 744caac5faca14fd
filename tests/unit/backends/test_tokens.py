"""Counting and tokenizing long texts, with a simple tokenizer."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

import pytest

from proxy.backends.driver import Capabilities
from proxy.backends.tokens import (
    AT_ONCE,
    BOS,
    KEPT,
    LONGEST,
    MOST,
    MOST_OLD,
    SIZE,
    TokenCounter,
    exact_tokens,
)
from proxy.core.task import Task
from proxy.errors import BadRequest, Cancelled, ContextExceeded
from proxy.gateway.adapt import budget
from proxy.runtime.cancel import Cancel
from tests.fakes import ScriptedDriver, wait_until

WORDS = "one two three four " * 4000
OLD = Capabilities(dialect="2023", n_ctx=2048)


class Tokenizer(ScriptedDriver):
    """A token is a punctuation mark, a word with its leading space, or another character. With
    `prefix`, a space is put before each text, as sentencepiece tokenizers often do."""

    def __init__(self, prefix: bool = False) -> None:
        super().__init__()
        self.prefix = prefix
        self.asked: list[str] = []
        self.behind: Callable[[], object] = lambda: None  # is called with each answer

    def tokenize(self, text: str, special: bool = False, cancel: Cancel | None = None) -> list[int]:
        if cancel is not None and cancel.cancelled:
            raise Cancelled("the client closed the request")
        self.asked.append(text)
        marked = " " + text if self.prefix else text
        words = re.findall(r"<\|\w+\|>| ?[a-z]+|.", marked, re.DOTALL)
        self.behind()
        return [hash(word) % 2**31 for word in words]


TEXTS = {
    "words": WORDS,
    "marks": "<|im_start|>user\nhello there<|im_end|>\n" * 1500,
    "chinese": "中文字符，测试。" * 5000,
    "code": "def f(x):\n    return x\n\n" * 2000,
    "spaces": "a  b \t\n  c" * 4000,
}


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_pieces_have_hardly_more_tokens_than_the_whole(text: str, prefix: bool) -> None:
    whole = len(Tokenizer(prefix).tokenize(text)) + BOS
    driver = Tokenizer(prefix)
    more = TokenCounter(driver).count(text) - whole
    assert 0 <= more <= 2 * len(text) // SIZE
    assert max(map(len, driver.asked)) <= SIZE
    assert TokenCounter(driver).count(text, limit=whole + 1) == whole, "near the limit it is exact"


def test_next_turn_tokenizes_its_new_text_alone() -> None:
    driver = Tokenizer()
    counter = TokenCounter(driver)
    text = "<|im_start|>user\nhello there<|im_end|>\n" * 4000
    for turn in range(3):
        text += f"<|im_start|>assistant\nturn {'abc'[turn]}<|im_end|>\n<|im_start|>user\nmore"
        driver.asked.clear()
        assert counter.count(text) == len(Tokenizer().tokenize(text)) + BOS
        if turn:
            assert sum(map(len, driver.asked)) < 1.5 * SIZE


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_next_turn_has_the_count_of_a_new_text(text: str) -> None:
    counter = TokenCounter(Tokenizer())
    turns = [text, text + text[:5000], text + text[:9000], f"other {text}", text[:-9000] + text]
    for turn in turns:
        new = TokenCounter(Tokenizer())
        count = new.count(turn)
        assert counter.count(turn) == count
        near = count + 1  # where it is exact
        assert counter.count(turn, limit=near) == new.count(turn, limit=near)


def test_texts_kept_for_the_next_turn_are_bounded() -> None:
    counter = TokenCounter(Tokenizer())
    for number in range(KEPT + 4):
        counter.count(f"{number:02} {WORDS}")
    names = [head.text[:2] for head in counter._heads]
    assert names == [f"{number:02}" for number in range(KEPT + 3, 3, -1)]
    counter.count("x" * (LONGEST + 2 * SIZE))
    assert len(counter._heads) == KEPT and counter._heads[0].text[0] != "x"
    counter.clear()
    assert not counter._heads


def test_counting_stops_at_the_context_size() -> None:
    driver = Tokenizer()
    with pytest.raises(ContextExceeded) as caught:
        TokenCounter(driver).count(WORDS, limit=2000)
    assert len(driver.asked) == 2, "8192 characters are 1 700 words"
    assert 2000 <= caught.value.extra["n_prompt_tokens"] < 4000  # type: ignore[operator]
    assert "at least" in caught.value.message


def test_counting_stops_when_the_client_leaves() -> None:
    cancel, driver = Cancel(), Tokenizer()
    driver.behind = lambda: len(driver.asked) < 2 or cancel.cancel()
    with pytest.raises(Cancelled):
        TokenCounter(driver).count(WORDS, cancel)
    assert len(driver.asked) == 2


def test_count_is_cached_until_the_model_changes() -> None:
    driver = Tokenizer()
    counter = TokenCounter(driver)
    first = counter.count(WORDS)
    asked = len(driver.asked)
    assert counter.count(WORDS) == first
    assert len(driver.asked) == asked
    counter.clear()
    counter.count(WORDS)
    assert len(driver.asked) == 2 * asked


def test_prompt_near_the_limit_without_safe_cuts_is_counted_exactly() -> None:
    """A cut inside a word makes two tokens of one; no prompt may be refused for that."""
    text = "x" * 20_000 + " word" * 50
    driver = Tokenizer()
    whole = len(driver.tokenize(text)) + BOS
    assert TokenCounter(driver).count(text, limit=whole + 1) == whole
    with pytest.raises(ContextExceeded) as caught:
        TokenCounter(driver).count(text, limit=whole)
    assert caught.value.extra["n_prompt_tokens"] == whole


def test_huge_text_is_refused_without_backend_request() -> None:
    driver = Tokenizer()
    counter = TokenCounter(driver)
    for ask in (counter.ids, counter.count):
        with pytest.raises(BadRequest, match=f"at most {MOST}"):
            ask("a " * (MOST // 2 + 1))
    counter.clear(slow=True)
    with pytest.raises(BadRequest, match=f"at most {MOST_OLD}"):
        counter.ids("a " * (MOST_OLD // 2 + 1))
    assert not driver.asked


def test_few_long_texts_are_tokenized_in_parallel() -> None:
    """An old server has eight threads, which completions need too. Waiting clients may leave."""
    go, driver = threading.Event(), Tokenizer()
    driver.behind = lambda: go.wait(60)
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
        thread.join(60)
    assert counter.count("one more " + WORDS) > 1000


def test_prompt_short_enough_by_length_is_not_counted() -> None:
    driver = Tokenizer()
    counter = TokenCounter(driver)
    task = Task(prompt="a b c", max_tokens=5)
    assert budget(task, OLD, 2048, counter) == 5
    assert not driver.asked


def test_budget_is_the_rest_of_the_context() -> None:
    counter = TokenCounter(Tokenizer())
    prompt = "word " * 1000  # 1 000 words and the last space
    assert budget(Task(prompt=prompt, max_tokens=5000), OLD, 2048, counter) == 2048 - 1001 - BOS
    with pytest.raises(ContextExceeded):
        exact_tokens(Task(prompt=prompt), 1001 + BOS, counter, None)
    assert exact_tokens(Task(prompt=prompt), 1002 + BOS, counter, None) == 1001 + BOS
