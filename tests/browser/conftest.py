"""A real browser, a real gateway, the bundled model; nothing outside this machine.

Every page a test opens is watched: an error of a script, something the Content-Security-Policy
stopped, or a request to another host fails the test.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.integration.slow_model import SlowModel
from tools import browser as chromium
from tools import servers
from tools.processes import Gateway, ModelServer, held_port

playwright_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed (make install)"
)

PHONE = (390, 844)
TABLET = (768, 1024)
DESKTOP = (1280, 800)
# The chat page has fetched its conversation: what a test puts into the list stays there.
OPENED = '.messages[aria-busy="false"]'
# A title is one more request, which comes at any time.
NO_TITLES = "try { localStorage.setItem('slotproxy no titles', '') } catch {}"
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
_serial = itertools.count(1)


@contextmanager
def running(*programs: Any) -> Iterator[None]:
    """Starts programs, and kills them in the end, the last one first."""
    try:
        for program in programs:
            program.start()
        yield
    finally:
        for program in reversed(programs):
            program.kill()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    program = chromium.find()
    if program is None:
        pytest.skip("no chromium here: python -m tools.browser says why")
    with playwright_api.sync_playwright() as playwright:
        chrome = chromium.launch(playwright, program)
        yield chrome
        chrome.close()


@pytest.fixture(scope="session")
def model_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    """The server of 2023 with the bundled model, four slots."""
    binary = servers.find("llama-2023")
    model = servers.ROOT / "models" / "tinychat-llama.gguf"
    if binary is None or not model.is_file():
        pytest.skip("llama-2023 or models/tinychat-llama.gguf is not there")
    log = tmp_path_factory.mktemp("server") / "llama.log"
    server = ModelServer("llama-2023", binary, model, log, slots=4, ctx=8192)
    with running(server):
        yield server


Site = Callable[..., Gateway]


def _sites(model_server: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Factory: a gateway with the pages, its data in a folder of its own, and these flags. The
    server of 2023 has eight threads, and each connection of a gateway that it keeps takes one: so
    a gateway ends with the tests that need it."""
    started: list[Gateway] = []

    def start(*flags: str) -> Gateway:
        folder = tmp_path_factory.mktemp("site")
        words = f"--llama-api {model_server.url} --slots 4 --chat-template chatml".split()
        gateway = Gateway(
            [*words, "--no-local-embeddings", "--data", str(folder / "data"), *flags],
            folder / f"gateway-{next(_serial)}.log",
        )
        started.append(gateway)
        gateway.start()
        return gateway

    try:
        yield start
    finally:
        for gateway in started:
            gateway.kill()


start_site = pytest.fixture(_sites)
start_module_site = pytest.fixture(scope="module")(_sites)


@pytest.fixture(scope="session")
def site(model_server: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The one most tests share: no key needed."""
    with contextmanager(_sites)(model_server, tmp_path_factory) as start:
        yield start()


@pytest.fixture(scope="session")
def endless_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlowModel]:
    """One that writes ten words a second, and never ends by itself. A real model fills its context
    while a busy machine looks at the page."""
    server = SlowModel(tmp_path_factory.mktemp("endless"), 2)
    server.launch()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def endless_site(endless_server: SlowModel, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway of the test's own in front of that, which it may kill and start again."""
    flags = ["--llama-api", endless_server.url, "--slots", "2", "--data", str(tmp_path / "data")]
    flags += ["--chat-template", "chatml"]
    gateway = Gateway(flags, tmp_path / "gateway.log", port=held_port())
    with running(gateway):
        yield gateway


Open = Callable[..., Any]


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    """Factory: a browser page of a visitor of its own, with `size`, `language` and `dark`. Models
    write `titles` only if wanted."""
    contexts: list[Any] = []
    bad: list[str] = []

    def open_(
        url: str,
        size: tuple[int, int] = DESKTOP,
        language: str = "en",
        dark: bool = False,
        titles: bool = False,
    ) -> Any:
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            locale={"en": "en-GB", "zh": "zh-CN"}[language],
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        context.set_default_timeout(60_000)
        if not titles:
            context.add_init_script(NO_TITLES)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: bad.append(f"a script failed: {error}"))
        page.on("request", lambda request: _foreign(request.url, bad))
        page.on(
            "console",
            lambda said: bad.append(said.text) if "Content Security Policy" in said.text else None,
        )
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert bad == []


def _foreign(url: str, bad: list[str]) -> None:
    parts = urlsplit(url)
    if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname != "127.0.0.1":
        bad.append(f"a request to another host: {url}")


@pytest.fixture
def accessible() -> Callable[[Any], None]:
    """Fails when axe finds anything serious or critical on a page."""
    source = AXE.read_text(encoding="utf-8")

    def check(page: Any) -> None:
        # Through the debugger, not as an element of the page: the policy of the page stands.
        page.evaluate(source)
        report = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
        serious = [
            f"{rule['id']}: {rule['help']}: "
            + "; ".join(node["html"][:160] for node in rule["nodes"])
            for rule in report["violations"]
            if rule["impact"] in ("serious", "critical")
        ]
        assert serious == []

    return check
