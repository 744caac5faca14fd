"""Texts that are dear to draw as Markdown: a model may write them, or a shared chat hold them."""

from __future__ import annotations

from typing import Any

import pytest

from tools.processes import Gateway

from .conftest import OPENED, Open

LONGEST = 3.0  # seconds on a busy machine; the worst of them took 22

SHOW = """async ([text, pieces]) => {
  const { Growing } = await import("/static/chat/markdown.js");
  const element = document.createElement("div");
  document.querySelector(".messages").append(element);
  const growing = new Growing(element);
  const began = performance.now();
  let held = 0;
  const size = Math.ceil(text.length / pieces);
  for (let n = 0; n < text.length; n += size) {
    const then = performance.now();
    growing.add(text.slice(n, n + size));
    await new Promise(requestAnimationFrame);
    held = Math.max(held, performance.now() - then);
  }
  const then = performance.now();
  growing.end();
  held = Math.max(held, performance.now() - then);
  const shown = element.textContent.length;
  element.remove();
  return { seconds: held / 1000, shown, all: (performance.now() - began) / 1000 };
}"""

TEXTS = {
    "dollars": "$$" * 25_000,
    "dollars apart": "$$ a " * 10_000,
    "paragraphs": "a\n\n" * 16_666,
    "underscores": "_a__" * 12_500,
    "formulas": "$x$ " * 8_000,
    "strikes": "~~a~" * 12_500,
    "stars": "**a*" * 12_500,
    "quotes": ">" * 5_000,
    "lists": "- " * 25_000,
    "brackets": "[" * 50_000,
    "brackets of formulas": "\\[" * 25_000,
    "parentheses of formulas": "\\(a" * 16_000,
    "lines of dollars": "$$\n" * 60_000,
    "many formulas as blocks": "$$x\n$$\n" * 20_000,
    "lines of brackets": "\\[ a\n" * 40_000,
    "many paragraphs": "a\n\n" * 66_000,
    "many formulas": ("$x$ " * 1200 + "\n\n") * 20,
    "many emphases": ("_a__" * 1240 + "\n\n") * 40,
    "tables": "|a|b|\n|-|-|\n" + "|x|y|\n" * 20_000,
    "links": "[a](" * 12_500,
    "footnotes": "[^1]: " * 8_000,
    "marks": "[^" * 25_000,
    "many footnotes": "[^1] " * 20_000 + "\n\n" + "".join(f"[^{n}]: x\n" for n in range(9_000)),
    "lines of footnotes": "a\n[^1]\n" * 20_000,
    "an endless image": "![a](data:image/png;base64," + "A" * 190_000,
    "images": "![a](https://example.org/a.png)\n\n" * 5_000,
    "long": "word " * 200_000,
}


@pytest.mark.alone
@pytest.mark.parametrize("pieces", [1, 20])
def test_no_text_holds_up_the_page(site: Gateway, visit: Open, pieces: int) -> None:
    page = visit(f"{site.url}/")
    page.locator(OPENED).wait_for()
    page.evaluate(SHOW, ["$x$", 1])  # its files are fetched
    for kind, text in TEXTS.items():
        result: dict[str, Any] = page.evaluate(SHOW, [text, pieces])
        assert result["seconds"] < LONGEST, (kind, result)
        assert result["shown"] > 0, kind


SEEN = """async (text) => {
  const { render } = await import("/static/chat/markdown.js");
  const element = document.createElement("div");
  document.querySelector(".messages").append(element);
  render(element, text);
  for (let n = 0; n < 600 && element.querySelector("[data-tex]"); n += 1)
    await new Promise((done) => setTimeout(done, 50));
  return [element.innerText, element.querySelectorAll(".katex").length];
}"""


def test_formulas_stand_in_lines_and_as_blocks(site: Gateway, visit: Open) -> None:
    page = visit(f"{site.url}/")
    page.locator(OPENED).wait_for()
    text = "So $a$ and \\(b\\), $$c$$ and \\[d\\] within a line,\n$$\ne\n$$\n"
    text += "\n\\[ f \\]\n\n  $$g$$\n\nend"
    shown, count = page.evaluate(SEEN, text)
    assert count == 7
    assert "$" not in shown and "end" in shown
