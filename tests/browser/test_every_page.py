"""Every page, on a phone, a tablet and a desktop, in both languages and themes: it fits, its words
are translated, it is accessible, reached by the keyboard, and without errors; and it is light.

Colours and what the keyboard reaches do not depend on the language, and a tablet shows what a phone
or a desktop does.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from proxy.web.pages import texts
from tests.fakes import ScriptedDriver, make_app
from tools.processes import Gateway

from .conftest import DESKTOP, PHONE, TABLET, Open
from .page_table import OTHERS, PAGES, PageRow, locked_site, signed_in

LIGHT = 100_000  # bytes of a first visit, as sent
HAN = re.compile(r"[\u4e00-\u9fff]")
SENTENCE = re.compile(r"[A-Za-z]{3,} [a-z]{2,} [a-z]{2,}")
GROUPS = "|".join(json.loads((texts.STATIC / texts.file("en")).read_bytes()))
UNFILLED = re.compile(
    rf"\{{\w+\}}|\b(?:{GROUPS})\.(?!md\b)[a-z_]+\b"
)  # placeholders, keys of texts
# What a reader sees or hears, except code and what is marked as another language.
SAID = """() => {
  const texts = [];
  const spoken = document.documentElement.lang;
  const walk = (element) => {
    const unseen = element.hidden && !element.checkVisibility();
    if (unseen || element.matches("code, pre, script, style")) return;
    if (element.lang && element.lang !== spoken) return;
    for (const name of ["aria-label", "title", "placeholder", "alt"]) {
      const value = element.getAttribute(name);
      if (value) texts.push(value.trim());
    }
    for (const child of element.childNodes) {
      if (child.nodeType === Node.TEXT_NODE) texts.push(child.data.trim());
      else if (child.nodeType === Node.ELEMENT_NODE) walk(child);
    }
  };
  walk(document.body);
  return [document.title, ...texts.filter(Boolean)];
}"""
# Elements that a mouse can use. Of radio buttons with one name, the keyboard stops at one.
USED = """() => {
  const sorts = "a[href], button, input:not([type=hidden]), select, textarea, summary";
  window.used = [...document.querySelectorAll(sorts)].filter(
    (node) =>
      !node.disabled &&
      node.checkVisibility({ checkVisibilityCSS: true }) &&
      !(node.type === "radio" && !node.checked),
  );
  document.addEventListener("focusin", ({ target }) => (target.reached = true));
  document.activeElement?.blur();
  return window.used.length;
}"""
MISSED = """() => window.used.filter((node) => node.isConnected && !node.reached)
  .map((node) => node.outerHTML.slice(0, 160))"""


@pytest.fixture(scope="module")
def locked(start_module_site: Any, tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    return locked_site(start_module_site, tmp_path_factory.mktemp("locked"))


@pytest.fixture(scope="module")
def cookies(locked: Gateway, browser: Any) -> Any:
    context = browser.new_context()
    try:
        return signed_in(locked, context.new_page())
    finally:
        context.close()


def test_table_has_every_page() -> None:
    app = make_app(ScriptedDriver())
    ours = {
        name
        for name, blueprint in app.blueprints.items()
        if blueprint.import_name.startswith("proxy.web.pages")
    }
    routes = {
        rule.rule
        for rule in app.url_map.iter_rules()
        if rule.endpoint.partition(".")[0] in ours
        and "GET" in (rule.methods or ())
        and not rule.rule.startswith("/pages/api/")
    }
    assert routes == OTHERS | {row.rule or row.path for row in PAGES} - {"an unknown address"}


def opened(
    site: Gateway, visit: Open, row: PageRow, cookies: Any, language: str, size: tuple[int, int]
) -> tuple[Any, list[str]]:
    """The page, and the list of faults on it, which may grow."""
    page = visit("about:blank", size=size, language=language)
    if row.signed_in:
        page.context.add_cookies(cookies)
    wrong: list[str] = []
    address = f"{site.url}{row.path.format(language=language)}"

    def answered(answer: Any) -> None:
        if answer.status >= 400 and answer.url != address:
            wrong.append(f"{answer.status} {answer.url}")

    # The page without a connection asks for the gateway again and again, and loads what it finds.
    page.route(f"{site.url}/", _without_head)
    page.on("response", answered)
    page.on("console", lambda said: wrong.append(said.text) if _bad(said, address) else None)
    page.goto(address)
    page.locator(row.there).first.wait_for(state="attached")
    return page, wrong


def _without_head(route: Any) -> None:
    """Leave HEAD without an answer."""
    if route.request.method != "HEAD":
        route.continue_()


def _bad(said: Any, address: str) -> bool:
    """Whether it is an error, other than the status of the page itself and what the tests block."""
    known = said.location["url"] == address or "Service Worker registration" in said.text
    return said.type in ("error", "warning") and not known


@pytest.mark.parametrize(
    ("language", "size"),
    [("en", PHONE), ("en", TABLET), ("en", DESKTOP), ("zh", PHONE), ("zh", DESKTOP)],
    ids=["en-phone", "en-tablet", "en-desktop", "zh-phone", "zh-desktop"],
)
@pytest.mark.parametrize("row", PAGES, ids=[row.path for row in PAGES])
def test_page_fits_is_translated_accessible_and_reached_by_keyboard(
    locked: Gateway,
    visit: Open,
    accessible: Any,
    cookies: Any,
    row: PageRow,
    language: str,
    size: tuple[int, int],
) -> None:
    page, wrong = opened(locked, visit, row, cookies, language, size)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    said = page.evaluate(SAID)
    assert [text for text in said if UNFILLED.search(text)] == []
    if language == "en":
        assert [text for text in said if HAN.search(text)] == []
    else:
        assert [text for text in said if SENTENCE.search(text) and not HAN.search(text)] == []
        assert (_texts("en") - _texts("zh")).intersection(said) == set()
    accessible(page)
    if language == "en" and size != TABLET:
        page.emulate_media(color_scheme="dark", reduced_motion="reduce")  # no colour in between
        accessible(page)
    if language == "en":
        for _ in range(page.evaluate(USED) + 12):
            page.keyboard.press("Tab")
        assert page.evaluate(MISSED) == []
    assert wrong == []


def _texts(language: str) -> set[str]:
    """All texts of a language without placeholders."""

    def leaves(value: Any) -> set[str]:
        return set().union(*map(leaves, value.values())) if isinstance(value, dict) else {value}

    return leaves(json.loads((texts.STATIC / texts.file(language)).read_bytes()))


def test_first_visit_of_every_page_is_light(locked: Gateway, visit: Open, cookies: Any) -> None:
    """The bytes as sent, with their headers, of a browser that has kept nothing."""
    heavy = {}
    for row in PAGES:
        page = visit("about:blank")
        page.context.add_cookies(cookies if row.signed_in else [])
        sent: list[float] = []

        def add(answer: Any, sent: list[float] = sent) -> None:
            sent.append(answer["encodedDataLength"])

        devtools = page.context.new_cdp_session(page)
        devtools.send("Network.enable")
        devtools.on("Network.loadingFinished", add)
        page.goto(f"{locked.url}{row.path.format(language='en')}", wait_until="load")
        page.locator(row.there).first.wait_for(state="attached")
        total = sum(sent)
        print(f"{row.path}: {len(sent)} answers, {total / 1000:.0f} kB")
        assert total > 0
        if total >= LIGHT + row.more:
            heavy[row.path] = total
        page.context.close()
    assert heavy == {}
