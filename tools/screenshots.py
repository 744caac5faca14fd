"""``make screenshots``: takes pictures of the main pages for docs/images/.

It runs a real gateway in front of a real server with SmolLM2, holds some conversations and adds a
document; the pages themselves are not modified. The model speaks English, so the pictures of the
Chinese pages show an English conversation. The models page is that of a second gateway, which
starts the same model in several ways; one of them starts late, so that the picture shows a load.

The pages of keys, usage, sign-in sessions and programs are those of a third gateway, whose keys are
made through its API. ``terminal.svg`` is a recording of commands (tools/recording.py).

``python -m tools.screenshots models`` takes only the pictures whose names begin so.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from playwright.sync_api import Browser, Page, sync_playwright

from proxy.web.pages import texts
from tools import browser as chromium
from tools import recording, servers, smollm2
from tools.processes import Child, Gateway, ModelServer, ask
from tools.run import CONTEXT, SAMPLING

IMAGES = servers.ROOT / "docs" / "images"
SECONDS = 120  # timeout of one answer
QUESTIONS = (
    "What is the capital of France?",
    "Name three fruits.",
    "Write one sentence about the sea.",
    "What is the capital of Germany?",
)
BASE = "Lighthouses"
# Asked in a conversation that uses that knowledge base.
ASKED = ("Who built the lighthouse?", "When did the last keeper leave?")
DOCUMENT = """# The lighthouse of Ardnish

The lighthouse was built in 1874 by the engineer Flora MacPhail. Its lamp burned whale oil until
1901, then paraffin, and has been electric since 1956.

# Keepers

Two keepers lived on the rock for six weeks at a time. The last of them left in 1987.
"""


class Picture(NamedTuple):
    """A page in a window of this size."""

    name: str
    path: str
    size: tuple[int, int]
    language: str = "en"
    dark: bool = False


MODELS, KEYS, USAGE, SESSIONS, STATUS = "/models", "/keys", "/usage", "/sessions", "/status"
TERMINAL = "terminal"
KEY = "sk-screenshots-0123456789"  # of the administrator in the pictures
CONNECT = "/connect"
LOCKED = (KEYS, USAGE, SESSIONS, CONNECT)  # pages of the gateway with keys
LOADED = "smollm2-32k"  # by the picture of the models page
LATE = 12  # seconds by which the model that is shown as loading starts late
PICTURES = (
    Picture("chat", "/", (1280, 800)),
    Picture("chat-phone-zh", "/", (390, 844), "zh", dark=True),
    Picture("status", "/status", (1280, 1480)),
    Picture("status-phone-zh", "/status", (390, 844), "zh", dark=True),
    Picture("knowledge", "/knowledge", (1280, 800)),
    Picture("knowledge-phone-zh", "/knowledge", (390, 844), "zh"),
    Picture("keys", KEYS, (1280, 800)),
    Picture("keys-phone-zh", KEYS, (390, 844), "zh"),
    Picture("usage", USAGE, (1280, 800)),
    Picture("usage-phone-zh", USAGE, (390, 844), "zh", dark=True),
    Picture("sessions", SESSIONS, (1280, 500)),
    Picture("connect", CONNECT, (1280, 800)),
    Picture("connect-phone-zh", CONNECT, (390, 844), "zh", dark=True),
    Picture("models", MODELS, (1280, 800)),
    Picture("models-phone-zh", MODELS, (390, 844), "zh", dark=True),
)


FLAGS = ("--slots", "6", "--chat-template", "chatml", "--sampling", SAMPLING)


@contextmanager
def site(*more: str) -> Iterator[Gateway]:
    """Run a gateway in front of a server with SmolLM2."""
    binary = servers.build("llama-2023", servers.terminal())
    model = smollm2.fetch(servers.terminal())
    children: list[Child] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            log = Path(folder) / "server.log"
            server = ModelServer("llama-2023", binary, model, log, slots=6, ctx=6 * CONTEXT)
            children.append(server)
            server.start()
            flags = ["--llama-api", server.url, *FLAGS, *more, "--data", str(Path(folder) / "data")]
            gateway = Gateway(flags, Path(folder) / "gateway.log")
            children.append(gateway)
            gateway.start()
            yield gateway
        finally:
            for child in reversed(children):
                child.kill()


def make_keys(url: str) -> None:
    """Make teams, users and keys through the API, and use some of them."""

    def made(path: str, **values: object) -> dict[str, Any]:
        status, answer = ask(f"{url}{path}", values, SECONDS, {"Authorization": f"Bearer {KEY}"})
        assert status == 200, answer
        reply: dict[str, Any] = json.loads(answer)
        return reply

    made("/team/new", team_id="research", team_alias="Research", models=["*"], max_budget=200)
    made(
        "/user/new",
        user_id="ada",
        user_alias="Ada",
        user_email="ada@example.com",
        auto_create_key=False,
    )
    made("/user/new", user_id="lin", user_alias="Lin", auto_create_key=False)
    budget = [{"unit": "tokens", "max_budget": 2_000_000, "budget_duration": "30d"}]
    keys = [
        made(
            "/key/generate", key_alias="ada-laptop", user_id="ada", team_id="research", rpm_limit=60
        ),
        made(
            "/key/generate",
            key_alias="lin-notebook",
            user_id="lin",
            duration="90d",
            budget_limits=budget,
        ),
        made(
            "/key/generate", key_alias="nightly-tests", allowed_ips=["10.0.0.0/8"], priority="low"
        ),
    ]
    for n, question in enumerate(QUESTIONS):
        body = {"messages": [{"role": "user", "content": question}], "max_tokens": 120}
        key = {"Authorization": f"Bearer {(KEY, keys[0]['key'], keys[1]['key'])[n % 3]}"}
        ask(f"{url}/v1/chat/completions", body, SECONDS, key)


@contextmanager
def models_site() -> Iterator[Gateway]:
    """Run a gateway that starts models, and use them."""
    old = str(servers.build("llama-2023", servers.terminal()))
    new = str(servers.build("llama-2026", servers.terminal()))
    model = str(smollm2.fetch(servers.terminal()))
    with tempfile.TemporaryDirectory() as folder:
        end = ["--host", "127.0.0.1", "--port", "${PORT}", "-t", "2", "-m", model]
        late = ["sh", "-c", f'sleep {LATE}; exec "$@"', "sh"]
        tables = [
            {
                "name": "smollm2",
                "title": "SmolLM2 135M",
                "description": "Short questions. The server of 2023.",
                "command": [old, *end, "-np", "4", "-c", "8192", "-cb"],
                "ttl": 1800,
                "pin": True,
            },
            {
                "name": "smollm2-notes",
                "description": "Long documents, whose caches are saved to disk.",
                "command": [new, *end, "-np", "2", "-c", "16384"],
                "ttl": 600,
                "save_slots": True,
            },
            {
                "name": "smollm2-32k",
                "description": "The longest context.",
                "command": [*late, old, *end, "-np", "1", "-c", "32768"],
                "ttl": 600,
            },
            {"name": "smollm2-spare", "command": [old, *end, "-c", "4096"], "ttl": 600},
        ]
        file = Path(folder) / "slotproxy.toml"
        lines = [
            line
            for table in tables
            for line in (
                "[[model]]",
                f"folder = {json.dumps(folder)}",
                *(f"{key} = {json.dumps(value)}" for key, value in table.items()),
            )
        ]
        file.write_text("\n".join(lines), encoding="utf-8")
        flags = ["--config", str(file), "--memory", "2GiB", "--data", str(Path(folder) / "data")]
        gateway = Gateway(flags, Path(folder) / "gateway.log")
        try:
            gateway.start()
            use_models(gateway.url)
            yield gateway
        finally:
            gateway.kill()


def use_models(url: str) -> None:
    """Load models, and save the cache of one. A second load is one whose time is known."""
    notes = {"model": "smollm2-notes", "prompt": DOCUMENT * 10, "max_tokens": 8}
    ask(f"{url}/v1/completions", notes, SECONDS)
    for name in ("smollm2-notes", "smollm2-32k"):
        ask(f"{url}/models/load", {"model": name}, SECONDS)
        wait_for(url, name, "ready")
        ask(f"{url}/models/unload", {"model": name}, SECONDS)
        wait_for(url, name, "")
    for name in ("smollm2", "smollm2-notes"):
        ask(f"{url}/models/load", {"model": name}, SECONDS)
        wait_for(url, name, "ready")


def wait_for(url: str, name: str, state: str) -> None:
    """Wait until a model has this state in /running, "" for none."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        listed = json.loads(ask(f"{url}/running")[1])["running"]
        if next((model["state"] for model in listed if model["model"] == name), "") == state:
            return
        time.sleep(0.1)
    raise TimeoutError(f"{name} is not {state or 'unloaded'}")


def converse(url: str) -> None:
    """Hold a few conversations, of two turns each."""
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        for _ in range(2):
            body = {"messages": messages, "max_tokens": 80}
            _, answer = ask(f"{url}/v1/chat/completions", body, SECONDS)
            messages.append(json.loads(answer)["choices"][0]["message"])
            messages.append({"role": "user", "content": "Tell me more."})


def teach(browser: Browser, url: str, folder: Path) -> None:
    """Create a knowledge base with a document through the page."""
    document = folder / "lighthouse.md"
    document.write_text(DOCUMENT, encoding="utf-8")
    page = browser.new_page(locale="en-GB")
    page.goto(f"{url}/knowledge")
    page.get_by_label("Name", exact=True).fill(BASE)
    page.get_by_label("Description").fill("Notes on the coast")
    page.get_by_role("button", name="Create").click()
    page.locator("#base-name", has_text=BASE).wait_for()
    page.locator('input[type="file"]').set_input_files(document)
    page.locator('.document .state[data-state="up"]').wait_for()
    page.close()


def take(browser: Browser, url: str, picture: Picture) -> None:
    width, height = picture.size
    context = browser.new_context(
        viewport={"width": width, "height": height},
        locale="zh-CN" if picture.language == "zh" else "en-GB",
        color_scheme="dark" if picture.dark else "light",
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.set_default_timeout(SECONDS * 1000)
    if picture.path in LOCKED:
        sign_in(page, url)
    page.goto(f"{url}{picture.path}")
    prepare(page, picture)
    page.screenshot(path=IMAGES / f"{picture.name}.png")
    context.close()


def sign_in(page: Page, url: str) -> None:
    page.goto(f"{url}/signin")
    page.locator("#key").fill(KEY)
    page.locator("#key").press("Enter")
    page.locator("#chat").wait_for()


def prepare(page: Page, picture: Picture) -> None:
    """Wait until a page is ready for its picture."""
    path = picture.path
    if path == "/":
        page.locator('[data-part="adjust"]').click()
        page.locator('[name="temperature"]').fill("0")
        page.locator('[data-part="settings-close"]').click()
        page.locator('[name="kind"][value="knowledge"]').check(force=True)
        page.locator('[name="base"]').select_option(label=BASE)
        for turn, question in enumerate(ASKED):
            page.locator("#text").fill(question)
            page.locator("#text").press("Enter")
            done = page.locator('.message.assistant[data-status="done"]')
            done.nth(turn).locator(".foot").wait_for()
        page.wait_for_timeout(200)
    elif path == STATUS:
        page.locator('.slot[data-kind="held"]').first.click()
        page.locator('[data-part="held-rows"] tr').first.wait_for()
        page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    elif path == KEYS:
        page.locator(".record").nth(2).wait_for()
    elif path == USAGE:
        page.locator('[data-part="models"] tbody tr').first.wait_for()
    elif path == CONNECT:
        page.locator('.programs a[href="#openai"]').click()
    elif path == SESSIONS:
        page.locator(".record").first.wait_for()
    elif path == "/knowledge":
        page.locator('.document .state[data-state="up"]').wait_for()
        page.locator('[name="query"]').fill("who built the lighthouse?")
        page.locator('[data-part="search"] button').click()
        page.locator(".hit").first.wait_for()
    elif path == MODELS:
        page.get_by_role(
            "button", name=f"{texts.words(picture.language, 'models.action.load')} {LOADED}"
        ).click()
        page.locator('.model[data-key="smollm2-32k"] progress:not(.idle)').wait_for()
        page.wait_for_function(
            """() => document.querySelector('[data-key="smollm2-32k"] progress').value > 0.3"""
        )
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")


def main(begins: str = "") -> int:
    program = chromium.find()
    if program is None:
        print("no chromium: python -m tools.browser says why", file=sys.stderr)
        return 1
    IMAGES.mkdir(exist_ok=True)
    wanted = [picture for picture in PICTURES if picture.name.startswith(begins)]
    with sync_playwright() as playwright:
        browser = chromium.launch(playwright, program)
        locked = [picture for picture in wanted if picture.path in LOCKED]
        if pictures := [picture for picture in wanted if picture.path not in (MODELS, *LOCKED)]:
            with site() as gateway, tempfile.TemporaryDirectory() as notes:
                converse(gateway.url)
                teach(browser, gateway.url, Path(notes))
                for picture in pictures:
                    take(browser, gateway.url, picture)
        if TERMINAL.startswith(begins):
            recording.record(IMAGES / f"{TERMINAL}.svg")
        if locked:
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "keys").write_text(f"ops {KEY}\n", encoding="utf-8")
                with site("--api-key-file", f"{folder}/keys", "--admins", "ops") as gateway:
                    make_keys(gateway.url)
                    for picture in locked:
                        take(browser, gateway.url, picture)
        for picture in wanted:
            if picture.path == MODELS:
                with models_site() as gateway:
                    take(browser, gateway.url, picture)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
