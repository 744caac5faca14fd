"""The API reference in a browser: it begins with chat, and its examples are answered."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes import key_file
from tools.processes import Gateway

from .conftest import DESKTOP, PHONE, Open
from .test_chat import until

KEY = "sk-ann-0123456789"


@pytest.fixture(scope="module")
def locked(start_module_site: Any, tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    keys = key_file(tmp_path_factory.mktemp("keys"), f"ann {KEY}\n")
    site: Gateway = start_module_site("--api-key-file", keys)
    return site


def opened(url: str, visit: Open, size: tuple[int, int], dark: bool = False) -> Any:
    """The page, with its first route open."""
    page = visit(f"{url}/docs", size=size, dark=dark)
    first = page.locator('rapi-doc [id="post-/v1/chat/completions"]').first
    first.wait_for()
    if size == PHONE:  # a list of routes, all closed
        first.locator(".endpoint-head").click()
    page.locator("rapi-doc api-request textarea").first.wait_for()
    return page


def send(page: Any, status: str) -> None:
    """Press TRY; the viewer shows this status."""
    page.locator("rapi-doc api-request").get_by_text("TRY", exact=True).first.click()
    page.locator("rapi-doc api-request .response-message", has_text=status).wait_for()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_example_is_sent_as_it_is(
    site: Gateway, visit: Open, accessible: Any, size: tuple[int, int]
) -> None:
    page = opened(site.url, visit, size)
    assert page.locator('[data-part="key"]').count() == 0  # none is needed
    example = page.locator("rapi-doc api-request textarea").first.input_value()
    assert '"content": "Hello!"' in example and '"any"' not in example
    send(page, "200")
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    accessible(page)


def test_key_of_the_reader_is_sent_and_not_stored(locked: Gateway, visit: Open) -> None:
    page = opened(locked.url, visit, DESKTOP, dark=True)
    assert page.locator("rapi-doc").get_attribute("theme") == "dark"
    send(page, "401")
    page.locator('[data-part="key"]').fill(KEY)
    send(page, "200")
    assert KEY not in page.evaluate("JSON.stringify({...localStorage, ...sessionStorage})")
    assert KEY not in page.url
    page.locator('[data-part="key"]').fill("")
    send(page, "401")


def test_groups_are_in_the_order_of_the_document_without_aliases(
    site: Gateway, visit: Open
) -> None:
    page = opened(site.url, visit, DESKTOP)
    groups = page.locator("rapi-doc .nav-bar-tag").all_inner_texts()
    assert [group.strip() for group in groups][:3] == ["OpenAI", "Anthropic", "Ollama"]
    routes = page.locator("rapi-doc .nav-bar-path").evaluate_all(
        "(all) => all.map((node) => node.dataset.contentId)"
    )
    assert routes[0] == "post-/v1/chat/completions"
    assert "get-/v1/models" in routes and "get-/models" not in routes


def test_other_routes_open_by_keyboard(site: Gateway, visit: Open) -> None:
    page = opened(site.url, visit, DESKTOP)
    page.locator('rapi-doc [id="link-post-/v1/messages"]').press("Enter")
    page.locator('rapi-doc [id="post-/v1/messages"]').wait_for()
    until(page, lambda: page.url.endswith("#post-/v1/messages"))
    example = page.locator("rapi-doc api-request textarea").first
    until(page, lambda: '"max_tokens"' in example.input_value())
