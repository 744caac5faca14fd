"""A first-time user's path, with only the texts on the page as guide."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pytest

from tests import documents
from tools.processes import Gateway

from .conftest import DESKTOP, PHONE, Open


class Words(NamedTuple):
    message: str
    send: str
    stop: str
    stopped: str
    again: str
    answer: str
    drop: str
    add: str
    sources: str
    place: str


# fmt: off
EN = Words(
    "Your message", "Send", "Stop", "stopped", "Regenerate", "Answer",
    "To ask about a PDF", "Add files", "sources?", "page 2",
)
ZH = Words(
    "您的消息", "发送", "停止", "已停止", "重新生成", "回答",
    "要针对 PDF", "添加文件", "个来源", "第 2 页",
)
# fmt: on


@pytest.mark.parametrize(
    ("words", "language", "size"),
    [(EN, "en", DESKTOP), (ZH, "zh", PHONE)],
    ids=["en", "zh on a phone"],
)
def test_ask_stop_add_a_pdf_ask_about_it_and_see_where_it_is_from(
    endless_site: Gateway, visit: Open, words: Words, language: str, size: tuple[int, int]
) -> None:
    page = visit(f"{endless_site.url}/", size=size, language=language)
    page.get_by_text(words.drop).wait_for()

    ask(page, words, "Tell me about the sea.")
    answer = page.get_by_role("article", name=words.answer).last
    stop = page.get_by_role("button", name=words.stop)
    stop.click()
    answer.get_by_text(words.stopped).wait_for()

    pdf = {
        "name": "varn.pdf",
        "mimeType": "application/pdf",
        "buffer": documents.pdf("A page about ships.", "The lighthouse of Varn has 214 steps."),
    }
    page.get_by_label(words.add).set_input_files([pdf])
    ask(page, words, "How many steps has the lighthouse of Varn?")
    answer = page.get_by_role("article", name=words.answer).last
    sources = answer.get_by_text(re.compile(rf"^\d+ {words.sources}$"))
    sources.click(timeout=60_000)  # as soon as it is there, while the answer is written
    source = answer.get_by_role("listitem").filter(has_text="214 steps")
    source.wait_for()
    assert "varn.pdf" in source.inner_text() and words.place in source.inner_text()
    stop.click()
    answer.get_by_role("button", name=words.again).wait_for()
    source.wait_for()  # unfolded, it stays so when the answer is over


def ask(page: Any, words: Words, text: str) -> None:
    page.get_by_role("textbox", name=words.message).fill(text)
    page.get_by_role("button", name=words.send).click()
