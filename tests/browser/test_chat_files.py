"""Files dropped into the chat, and answers that hold code and formulas, in a browser."""

from __future__ import annotations

from typing import Any

import pytest

from tests import documents
from tools.processes import Gateway

from .conftest import DESKTOP, OPENED, PHONE, Open
from .test_chat import until

DONE = '.message.assistant[data-status="done"]'
NOTE = "The lighthouse of Varn was lit in 1871 by Ada Moor. It has 214 steps."


@pytest.mark.parametrize(
    ("size", "language"), [(PHONE, "zh"), (DESKTOP, "en")], ids=["phone", "desktop"]
)
def test_pdf_attached_to_the_chat_is_used_and_cited(
    site: Gateway, visit: Open, accessible: Any, size: tuple[int, int], language: str
) -> None:
    page = visit(f"{site.url}/", size=size, language=language)
    pdf = {
        "name": "varn.pdf",
        "mimeType": "application/pdf",
        "buffer": documents.pdf("A first page about ships.", NOTE),
    }
    page.locator('[data-part="attach"]').set_input_files([pdf])
    page.locator('.file[data-status="ready"]').wait_for(timeout=60_000)
    page.locator("#text").fill("How many steps has the lighthouse of Varn?")
    page.locator("#text").press("Enter")
    page.locator(DONE).wait_for(timeout=60_000)
    sources = page.locator('details[data-name="sources"]')
    sources.locator("summary").click()
    listing = sources.inner_text()
    assert "varn.pdf" in listing and "214 steps" in listing and "2" in listing
    accessible(page)
    page.reload()
    page.locator('.file[data-status="ready"]').wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


ANSWER = r"""A body has $E = mc^2$; it costs $5 and $10.

\[ \int_0^1 x\,dx \]

```python
def greet(): return "hello"
```

| a | b |
|---|---|
| 1 | 2 |

<img src=x onerror=alert(1)> <b onclick="x()">bold</b> [bad](javascript:alert(1))
"""

SHOW = """async (text) => {
  const { Growing } = await import("/static/chat/markdown.js");
  const element = document.createElement("div");
  document.querySelector(".messages").append(element);
  const growing = new Growing(element);
  for (const sign of text) growing.add(sign);
  growing.end();
  return element.querySelectorAll("img, script, [onclick], a[href^=javascript]").length;
}"""


def test_code_formulas_and_tables_render_and_html_stays_text(site: Gateway, visit: Open) -> None:
    page = visit(f"{site.url}/")
    page.locator(OPENED).wait_for()
    assert page.evaluate(SHOW, ANSWER) == 0
    page.locator(".rich .hljs-keyword").first.wait_for()
    page.locator(".rich .katex-display").wait_for()
    until(page, lambda: page.locator(".rich .katex").count() == 2)
    shown = page.locator(".rich").inner_text()
    assert "costs $5 and $10" in shown and "<img src=x" in shown
    assert page.locator(".rich td").count() == 2


GROWN = """async (text) => {
  const { Growing } = await import("/static/chat/markdown.js");
  const list = document.querySelector(".messages");
  const show = () => {
    const element = document.createElement("div");
    list.append(element);
    return [element, new Growing(element)];
  };
  const bare = (node) => node.textContent.replace(/\\s/g, "");
  const blocks = (element) => [...element.children].map(bare);
  const until = async (true_) => {
    for (let n = 0; n < 600 && !true_(); n++) await new Promise((done) => setTimeout(done, 50));
  };
  const alike = () => JSON.stringify(blocks(part)) === JSON.stringify(blocks(whole));
  const [whole, at_once] = show();
  at_once.end(text);
  await until(() => whole.querySelectorAll(".katex").length >= 2); // what it needs is fetched
  const [part, growing] = show();
  for (let n = 0; n < text.length; n += 11) {
    growing.add(text.slice(n, n + 11));
    await new Promise(requestAnimationFrame);
  }
  await until(alike);
  const before = blocks(part);
  growing.end();
  await until(alike);
  return [blocks(whole), before, blocks(part)];
}"""
LISTS = """1. one
2. two

   with a paragraph

3. three

- a
  - b

Title
=====

a  b
---

> quoted
and on

| a | b |
|--|--|
| 1 | 2 |
after

```
code

more
```
the end

of it"""


def test_growing_text_renders_like_the_whole_text(site: Gateway, visit: Open) -> None:
    page = visit(f"{site.url}/")
    page.locator(OPENED).wait_for()
    whole, grown, ended = page.evaluate(GROWN, ANSWER + LISTS)
    assert len(whole) > 12
    assert grown == whole
    assert ended == whole
