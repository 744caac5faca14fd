"""The pages without a connection: the service worker, what it keeps, and its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.processes import Gateway, ModelServer, held_port

from .conftest import Open

KEY = "sk-offline-0123456789"
KEPT = """async () => {
  const found = {};
  for (const name of await caches.keys()) {
    const cache = await caches.open(name);
    found[name] = (await cache.keys()).map((one) => new URL(one.url).pathname);
  }
  return found;
}"""
WORKERS = "async () => (await navigator.serviceWorker.getRegistrations()).length"


@pytest.fixture
def own_site(model_server: ModelServer, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway with an API key, which the test may kill and start again."""
    flags = ["--llama-api", model_server.url, "--slots", "4", "--data", str(tmp_path / "data")]
    gateway = Gateway([*flags, "--api-key", KEY], tmp_path / "gateway.log", port=held_port())
    try:
        gateway.start()
        yield gateway
    finally:
        gateway.kill()


def signed_in(visit: Open, site: Gateway, language: str) -> Any:
    page = visit(f"{site.url}/", language=language, workers=True)
    page.locator("#key").fill(KEY)
    page.locator("#key").press("Enter")
    page.locator("#chat").wait_for()
    page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    return page


@pytest.mark.parametrize(("language", "title"), [("en", "No connection"), ("zh", "没有连接")])
def test_page_without_a_connection_says_so_and_returns(
    own_site: Gateway, visit: Open, accessible: Any, language: str, title: str
) -> None:
    page = signed_in(visit, own_site, language)
    own_site.stop()
    page.reload()
    page.get_by_role("heading", name=title).wait_for()
    assert page.evaluate("getComputedStyle(document.querySelector('.bar')).display") == "flex"
    accessible(page)
    own_site.start()
    page.locator("#chat").wait_for(timeout=60_000)  # by itself


def test_service_worker_keeps_nothing_private_and_ends_with_signing_out(
    own_site: Gateway, visit: Open
) -> None:
    page = signed_in(visit, own_site, "en")
    page.goto(f"{own_site.url}/usage")
    page.goto(f"{own_site.url}/")
    (files,) = page.evaluate(KEPT).values()
    others = {one for one in files if not one.startswith("/static/")}
    assert others == {"/offline/en"} and len(files) > 5
    page.get_by_role("button", name="Sign out").click()
    page.locator("#key").wait_for()
    page.wait_for_function(f"async () => (await ({WORKERS})()) === 0")
    page.wait_for_function(f"async () => Object.keys(await ({KEPT})()).length === 0")
