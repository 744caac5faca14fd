"""Images in the chat, in a browser, on a llama-server that sees (with a made-up projector)."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests import documents
from tools import made_up_mmproj, made_up_model, servers
from tools.processes import Gateway, ModelServer

from .conftest import PHONE, Open, running

RED, BLUE = documents.png(255, 0, 0), documents.png(0, 0, 255)
GIVE = """([data, type, name, event]) => {
  const bytes = Uint8Array.from(atob(data), (char) => char.charCodeAt(0));
  const files = new DataTransfer();
  files.items.add(new File([bytes], name, { type }));
  const how = { bubbles: true, cancelable: true };
  const dispatched = event === "paste"
    ? new ClipboardEvent(event, { ...how, clipboardData: files })
    : new DragEvent(event, { ...how, dataTransfer: files });
  document.getElementById("text").dispatchEvent(dispatched);
}"""


def give(page: Any, data: bytes, how: str, kind: str = "image/png", name: str = "a.png") -> None:
    """Drop or paste a file."""
    page.evaluate(GIVE, [base64.b64encode(data).decode(), kind, name, how])


def choose(page: Any, data: bytes) -> None:
    picture = {"name": "a.png", "mimeType": "image/png", "buffer": data}
    page.locator('[data-part="attach"]').set_input_files([picture])


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    binary = servers.find("llama-2026")
    if binary is None:
        pytest.skip("llama-2026 is not built: only it sees")
    folder = tmp_path_factory.mktemp("seeing")
    model = made_up_model.cached()
    projector = ("--mmproj", str(made_up_mmproj.cached(model)))
    server = ModelServer("llama-2026", binary, model, folder / "llama.log", extra=projector)
    flags = ["--llama-api", server.url, "--data", str(folder / "data")]
    gateway = Gateway(flags, folder / "gateway.log")
    with running(server, gateway):
        yield gateway


def briefly(page: Any) -> None:
    """Limits answers to a token, the same each time: rounding may change one of several."""
    page.get_by_role("button", name=re.compile("^(Settings|设置)$")).click()
    page.locator('[name="temperature"]').fill("0")
    page.locator('[name="max_tokens"]').fill("1")


def press(page: Any, part: str, inside: str) -> None:
    """Click a button that is folded up on a phone."""
    button = page.locator(f'[data-part="{part}"]')
    if not button.is_visible():
        page.locator(f'[data-part="{inside}"]').click()
    button.click()


def ask(page: Any, number: int = 1) -> str:
    page.locator("#text").fill("What is to be seen?")
    page.locator("#text").press("Enter")
    page.locator('.message.assistant[data-status="done"]').nth(number - 1).wait_for()
    said: str = page.locator(".message.assistant .said").nth(number - 1).inner_text()
    return said


def drawn(page: Any) -> int:
    """The width of the image in the last question, once it is shown."""
    image = page.locator(".message.user img").last
    image.wait_for()
    width: int = image.evaluate("async (node) => (await node.decode(), node.naturalWidth)")
    return width


def test_image_is_shown_sent_stored_and_deleted(
    seeing: Gateway, visit: Open, accessible: Any
) -> None:
    page = visit(f"{seeing.url}/", size=PHONE)
    page.on("dialog", lambda dialog: dialog.accept())
    briefly(page)
    choose(page, RED)
    page.get_by_role("list", name="Images").get_by_role("img", name="a.png").wait_for()
    accessible(page)
    red = ask(page)
    assert page.locator(".thumbnail").count() == 0
    assert drawn(page) == 20
    accessible(page)
    where = page.locator(".message.user img").get_attribute("src")
    page.reload()
    assert drawn(page) == 20
    picture = page.request.get(f"{seeing.url}{where}")
    assert (picture.headers["content-type"], picture.body()) == ("image/png", RED)

    press(page, "new", "fold")
    give(page, BLUE, "paste")
    page.locator(".thumbnail").wait_for()
    assert ask(page) != red
    press(page, "delete", "acts")
    press(page, "new", "fold")
    give(page, RED, "drop")
    page.locator(".thumbnail").wait_for()
    assert ask(page) == red  # what it says is of the image alone

    page.get_by_role("button", name="Edit").click()
    page.locator(".editing").get_by_role("button", name="Send").click()
    page.get_by_text("2 of 2").wait_for()
    assert drawn(page) == 20  # an edited question keeps its image

    where = page.locator(".message.user img").get_attribute("src")
    press(page, "delete", "acts")
    page.locator(".message").first.wait_for(state="detached")
    assert page.request.get(f"{seeing.url}{where}").status == 404
