"""Markdown of answers: footnotes, tables, task lists, images, long lines."""

from __future__ import annotations

import base64
import csv
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests import documents
from tools.processes import Gateway

from .conftest import DESKTOP, OPENED, PHONE, Open
from .test_chat import until
from .test_chat_messages import TALK, message

PIXEL = base64.b64encode(documents.png(200, 30, 90)).decode()
ANSWER = f"""The sky is **blue**[^1], as [^law] says, not [^a-z].

| Colour | nm | Why |
|:-------|---:|:---:|
| Violet | 400 | "short", yes |
| =1+1 | -5 | `a` |

- [x] measured
- [ ] published

![A dot](data:image/png;base64,{PIXEL})

{{remote}}

```python
{"x = " + " + ".join(f"number_{n}" for n in range(60))}
```

[^1]: Seen from *the ground*.
[^law]: Rayleigh's law.
    It has a second line.

The end.
"""


@pytest.fixture
def pictures() -> Iterator[tuple[str, list[Any]]]:
    """Another host with an image, and the headers of those who fetched it."""
    seen: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers)
            self.send_response(200)
            self.send_header("Content-Type", "image/svg+xml")
            self.end_headers()
            self.wfile.write(
                b'<svg xmlns="http://www.w3.org/2000/svg" width="80" height="60">'
                b'<rect width="80" height="60" fill="teal"/></svg>'
            )

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", seen
        server.shutdown()


def opened(site: Gateway, page: Any, answer: str) -> Any:
    messages = [message(0, "user", "Q"), message(1, "assistant", answer)]
    page.route("**/conversations?*", lambda route: route.fulfill(json=[TALK]))
    page.route("**/c/messages", lambda route: route.fulfill(json=messages))
    page.goto(f"{site.url}/#c")
    page.locator(OPENED).wait_for()
    return page.locator(".message.assistant .said")


@pytest.mark.parametrize(("size", "language"), [(PHONE, "zh"), (DESKTOP, "en")])
def test_answer_is_shown_with_all_of_its_markdown(
    site: Gateway,
    visit: Open,
    accessible: Any,
    pictures: Any,
    size: tuple[int, int],
    language: str,
) -> None:
    host, seen = pictures
    page = visit(f"{site.url}/status", size=size, language=language)
    said = opened(site, page, ANSWER.replace("{remote}", f"![Chart]({host}/chart.svg?secret=1)"))
    # footnotes
    until(page, lambda: said.locator("[data-mark] button").count() == 2)
    assert "not [^a-z]." in said.inner_text()
    assert said.locator(".footnote").all_inner_texts() == [
        "Seen from the ground. ↩",
        "Rayleigh's law.\nIt has a second line. ↩",
    ]
    last = said.locator(":scope > *").last
    assert last.get_attribute("class") == "footnotes"
    said.locator("[data-mark] button").nth(1).click()
    assert page.evaluate("document.activeElement.dataset.number") == "2"
    # tables
    sides = said.locator("tr:last-child td").evaluate_all(
        "cells => cells.map((cell) => getComputedStyle(cell).textAlign)"
    )
    assert sides == ["start", "end", "center"]
    with page.expect_download() as download:
        said.get_by_role("button", name="CSV").click()
    with Path(download.value.path()).open(encoding="utf-8-sig", newline="") as file:
        rows = [*csv.reader(file)]
    assert rows[1:] == [["Violet", "400", '"short", yes'], ["'=1+1", "-5", "a"]]
    # task lists
    marks = [box.inner_text() for box in said.locator("[data-box]").all()]
    assert marks == ["☑", "☐"]
    # images
    dot = said.locator("img")
    until(page, lambda: dot.evaluate("(node) => node.complete && node.naturalWidth") == 20)
    assert seen == []
    accessible(page)
    said.get_by_role("button", name={"en": "Load", "zh": "加载"}[language]).click()
    shown = page.frame_locator(".picture iframe").locator("img")
    until(page, lambda: shown.evaluate("(node) => node.naturalWidth") == 80)
    assert [(headers["Referer"], headers["Cookie"]) for headers in seen] == [(None, None)]
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_footnotes_and_tables_grow_with_the_answer(site: Gateway, visit: Open) -> None:
    page = visit(f"{site.url}/")
    page.locator(OPENED).wait_for()
    grown, whole = page.evaluate(
        """async (text) => {
          const { Growing, render } = await import("/static/chat/markdown.js");
          const [grown, whole] = [document.createElement("div"), document.createElement("div")];
          document.querySelector(".messages").append(grown, whole);
          const growing = new Growing(grown);
          for (const sign of text) {
            growing.add(sign);
            if ("\\n]|".includes(sign)) await new Promise(requestAnimationFrame);
          }
          growing.end();
          render(whole, text);
          for (let n = 0; n < 600 && grown.innerHTML !== whole.innerHTML; n += 1)
            await new Promise((done) => setTimeout(done, 50));
          return [grown.innerHTML, whole.innerHTML];
        }""",
        ANSWER.replace("{remote}", "![no](https://example.org/a.png)"),
    )
    assert grown == whole
    assert "<img src=" in grown and "<iframe" not in grown
