"""From the page to an answer about an own PDF, as a new user walks it: SmolLM2 on a real server,
and what the gateway brings for searching documents."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests import documents
from tools import servers, smollm2
from tools.processes import Gateway, ModelServer
from tools.run import CONTEXT, SAMPLING

from .conftest import DESKTOP, OPENED, PHONE, Open
from .test_chat import answered, ask, until

NOTE = "The lighthouse of Varn was lit in 1871 by Ada Moor. It has 214 steps."
DROP = """([data, name]) => {
  const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
  const given = new DataTransfer();
  given.items.add(new File([bytes], name, { type: "application/pdf" }));
  for (const event of ["dragover", "drop"]) {
    const how = { bubbles: true, cancelable: true, dataTransfer: given };
    document.querySelector("h1").dispatchEvent(new DragEvent(event, how));
  }
}"""


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    pytest.importorskip("pypdfium2", reason="the extra knowledge is not installed")
    binary, model = servers.find("llama-2023"), smollm2.find()
    if binary is None or model is None:
        pytest.skip("llama-2023 or SmolLM2 is not there: make run")
    folder = tmp_path_factory.mktemp("knowing")
    server = ModelServer("llama-2023", binary, model, folder / "llama.log", ctx=2 * CONTEXT)
    flags = ["--llama-api", server.url, "--slots", "2", "--chat-template", "chatml"]
    flags += ["--sampling", SAMPLING, "--data", str(folder / "data")]
    gateway = Gateway(flags, folder / "gateway.log")
    try:
        server.start()
        gateway.start()
        yield gateway
    finally:
        gateway.kill()
        server.kill()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_dropped_pdf_is_asked_about_and_its_numbered_card_opens_the_passage(
    knowing: Gateway, visit: Open, accessible: Any, size: tuple[int, int]
) -> None:
    began = time.monotonic()
    page = visit(f"{knowing.url}/", size=size)
    page.locator(OPENED).wait_for()
    data = documents.pdf("A first page about ships and their sails.", NOTE)
    page.evaluate(DROP, [base64.b64encode(data).decode(), "varn.pdf"])
    page.locator(".file", has_text="varn.pdf").wait_for()
    page.locator('.file[data-status="ready"]').wait_for(timeout=100_000)
    until(page, lambda: page.get_by_role("radio", name="Knowledge").is_checked())
    ask(page, "How many steps has the lighthouse of Varn?")
    said = answered(page)
    page.locator('details[data-name="sources"] summary').click()
    card = page.locator(".source", has_text="214 steps")
    assert card.locator(".badge").inner_text().isdigit()
    assert "varn.pdf" in card.inner_text() and "page 2" in card.inner_text()
    card.get_by_role("button", name="Show the passage").click()
    passage = page.locator("dialog.passage")
    assert NOTE in " ".join(passage.inner_text().split())
    accessible(page)
    print(f"\n{time.monotonic() - began:.1f} s to: {said!r}")
