"""A conversation that is shared by link, and its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .conftest import DESKTOP, OPENED, PHONE, Open
from .fed import fed_site
from .test_chat import answered, ask, until


@pytest.mark.parametrize(("size", "language"), [(PHONE, "zh"), (DESKTOP, "en")])
def test_conversation_is_shared_and_the_link_revoked(
    tmp_path: Path, visit: Open, accessible: Any, size: tuple[int, int], language: str
) -> None:
    with fed_site(tmp_path) as site:
        page = visit(f"{site.url}/", size=size, language=language)
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.locator(OPENED).wait_for()
        answer = site.feed()
        table = "| a | b |\n|---|--:|\n| c | $x^2$ |"
        answer.say(content=f"It is **blue**[^1].\n\n{table}\n\n[^1]: By day.")
        answer.end()
        ask(page, "Why is the sky blue?")
        answered(page)
        page.locator('[data-part="share"]').evaluate("(node) => node.click()")
        dialog = page.locator("dialog.links")
        dialog.locator(":scope > button").click()
        link = dialog.locator("li a")
        link.wait_for()
        accessible(page)
        address = link.get_attribute("href")
        reader = visit(address, size=size, language=language)
        said = reader.locator(".message .said")
        until(reader, lambda: said.count() == 2)
        until(reader, lambda: reader.locator(".katex").count() == 1)
        assert said.first.inner_text() == "Why is the sky blue?"
        assert reader.locator("h1").inner_text() == "Why is the sky blue?"
        assert reader.evaluate("document.documentElement.scrollWidth") <= size[0]
        accessible(reader)
        assert reader.context.cookies() == []
        dialog.locator("li button").nth(1).click()
        until(page, lambda: dialog.locator("li").count() == 0)
        assert reader.reload().status == 404
        assert reader.locator(".message").count() == 0
