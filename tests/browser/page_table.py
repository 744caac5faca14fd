"""The table of all pages, as an administrator meets them, and a gateway that has something to show
on each. `test_every_page.py` compares it with the routes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tests.fakes import key_file
from tools.processes import Gateway

from .conftest import OPENED
from .test_chat import until

KEY = "sk-table-0123456789"
HEADERS = {"Authorization": f"Bearer {KEY}"}


class PageRow(NamedTuple):
    """`path` in a gateway, the `rule` of its route, an element that is `there` once the page can be
    used, and the bytes that a first visit may have `more` than those of other pages."""

    path: str
    there: str
    rule: str = ""
    signed_in: bool = True
    more: int = 0


PAGES = (
    PageRow("/", f'{OPENED}, [data-part="talks"] li'),
    PageRow("/knowledge", '.document .state[data-state="up"]'),
    PageRow("/models", '[data-part="none"]:not([hidden])'),
    PageRow("/connect", '.programs a[aria-current="true"]'),
    PageRow("/usage", '[data-part="models"] tbody tr'),
    PageRow("/requests", '[data-part="rows"] tr'),
    PageRow("/keys", ".record"),
    PageRow("/sessions", ".record"),
    PageRow("/status", '.backend .state[data-state="up"]'),
    PageRow("/docs", 'rapi-doc [id="post-/v1/chat/completions"]', signed_in=False, more=280_000),
    PageRow("/signin", "#key", signed_in=False),
    PageRow("/invitation", "#invitation", signed_in=False),
    PageRow("/nowhere", "h1", "an unknown address"),
)
# Routes of the pages' modules that answer browsers with something else than a page.
OTHERS = {
    "/ui",
    "/static/<path:name>",
    "/<any(language, theme):what>/<chosen>",
    "/signin/oidc",
    "/signin/oidc/callback",
    "/shared/<link>",  # a page whose address is made up: see test_chat_shared.py
}


def locked_site(start_site: Any, folder: Path) -> Gateway:
    """A gateway with keys, a knowledge base with a document, a conversation, and some usage."""
    keys = key_file(folder, f"root {KEY}\n")
    site: Gateway = start_site("--api-key-file", keys, "--admins", "root")
    with httpx.Client(base_url=site.url, headers=HEADERS, timeout=60) as client:

        def posted(path: str, **body: Any) -> Any:
            answer = client.post(path, json=body)
            assert answer.status_code < 300, answer.text
            return answer.json()

        messages = [{"role": "user", "content": "Hello!"}]
        posted("/v1/chat/completions", messages=messages, max_tokens=4)
        posted("/key/generate", key_alias="notebook")
        base = posted("/pages/api/knowledge", name="Ships", info="")["id"]
        document = client.post(
            f"/pages/api/knowledge/{base}/documents?name=ship.md",
            content=b"# The ship\n\nIt has a red sail.\n",
            headers={"Content-Type": "application/octet-stream"},
        )
        assert document.status_code < 300, document.text
        talk = posted("/pages/api/chat/conversations")["id"]
        client.put(f"/pages/api/chat/conversations/{talk}", json={"title": "Sails"})
    return site


def signed_in(site: Gateway, page: Any) -> Any:
    """The cookies of a browser that has signed in."""
    page.goto(f"{site.url}/signin")
    page.locator("#key").fill(KEY)
    page.locator("#key").press("Enter")
    page.locator(OPENED).wait_for()
    until(page, lambda: page.locator("#model-state").inner_text() != "")
    return page.context.cookies()
