"""Nothing moves under the reader's eye while an answer is written, in a browser: what is read stays
where it is, and the end is followed only by a reader who is there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import DESKTOP, OPENED, PHONE, Open
from .fed import FedSite, fed_site
from .test_chat import DONE, ask, until

INTRO = "# The lighthouse\n\n" + "The lighthouse of Varn has 214 steps. " * 8 + "\n\n"
CODE = """```python
def light(power: float, distance: float) -> float:
    return power / (4 * 3.14159 * distance ** 2)  # how bright it is for a ship that is far out
```

"""
TABLE = "| distance | light |\n|---|---|\n| 1 | 80 |\n| 10 | 0.8 |\n\n"
FORMULA = "\\[ E(r) = \\frac{P}{4 \\pi r^2} \\]\n\nand $r > 0$ holds.\n\n"
LIST = "1. Read the table, then\n2. come back.\n\n"
END = "The end of the answer.\n"
PARTS = (INTRO, CODE, TABLE, FORMULA, LIST) * 3

# The list's own scrolling moves nothing in this sense: the browser leaves it out.
WATCH = """() => {
  window.shifts = { messages: [], header: [] };
  const parts = {
    messages: document.querySelector(".messages"),
    header: document.querySelector(".talk > header"),
  };
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      for (const { node } of entry.sources) {
        for (const name in parts) {
          if (parts[name].contains(node)) window.shifts[name].push(node.textContent.slice(0, 80));
        }
      }
    }
  }).observe({ type: "layout-shift" });
}"""
FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
LEFT = "(list) => list.scrollHeight - list.scrollTop - list.clientHeight"
ROUNDING = 2  # pixels; positions of scrolling are rounded
SIZES = pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FedSite]:
    with fed_site(tmp_path_factory.mktemp("fed"), 4, "--tools", "calculator") as site:
        yield site


def opened(fed: FedSite, visit: Open, size: tuple[int, int] = DESKTOP) -> Any:
    page = visit(f"{fed.url}/", size=size)
    page.locator(OPENED).wait_for()
    page.locator("#model-state", has_text="Ready").wait_for()
    return page


def settled(page: Any) -> None:
    """The frame of the last change is drawn."""
    page.evaluate(FRAMES)


def top(page: Any, selector: str) -> float:
    y: float = page.locator(selector).first.evaluate("(node) => node.getBoundingClientRect().top")
    return y


def shown(page: Any, text: str) -> None:
    said = page.locator(".message.assistant .said").last
    until(page, lambda: text in said.inner_text())
    settled(page)


def scroll_up(page: Any, pixels: int = 10_000) -> None:
    """As a reader does, so the page knows that it was one."""
    box = page.locator(".messages").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    before = page.locator(".messages").evaluate("(list) => list.scrollTop")
    page.mouse.wheel(0, -pixels)
    wanted = max(0, before - pixels)
    until(page, lambda: page.locator(".messages").evaluate("(list) => list.scrollTop") <= wanted)
    settled(page)


@SIZES
def test_reader_who_scrolled_up_sees_nothing_move(
    fed: FedSite, visit: Open, size: tuple[int, int]
) -> None:
    page = opened(fed, visit, size)
    feed = fed.feed()
    ask(page, "Tell me about light.")
    for number, part in enumerate(PARTS):
        feed.say(content=f"{part}Part {number} is over.\n\n")
        shown(page, f"Part {number} is over.")
    page.locator(".katex-display").nth(2).wait_for()
    page.locator(".hljs-keyword").nth(2).wait_for()
    scroll_up(page, 900)
    page.evaluate(WATCH)
    places = {name: top(page, f".message.assistant {name}") for name in ("h1", "pre", "table")}
    for number, part in enumerate(PARTS):
        feed.say(content=f"{part}More {number} is over.\n\n")
        shown(page, f"More {number} is over.")
    button = page.get_by_role("button", name="To the newest message")
    assert button.is_visible()
    feed.say(content=END)
    feed.end()
    page.locator(DONE).get_by_role("button", name="Regenerate").wait_for()
    settled(page)
    for name, place in places.items():
        assert abs(top(page, f".message.assistant {name}") - place) <= ROUNDING, name
    assert page.evaluate("window.shifts.messages") == []
    button.click()
    until(page, lambda: page.locator(".messages").evaluate(LEFT) < 2)
    button.wait_for(state="hidden")


@SIZES
def test_reader_at_the_end_stays_there_and_nothing_else_moves(
    fed: FedSite, visit: Open, size: tuple[int, int]
) -> None:
    page = opened(fed, visit, size)
    feed = fed.feed()
    ask(page, "Tell me about light.")
    feed.say(content="It begins.\n\n")
    shown(page, "It begins.")
    page.locator("#model-state").wait_for()
    page.evaluate(WATCH)
    for number, part in enumerate(PARTS):
        for at in range(0, len(part), 60):
            feed.say(content=part[at : at + 60])
        feed.say(content=f"Part {number} is over.\n\n")
        shown(page, f"Part {number} is over.")
        assert page.locator(".messages").evaluate(LEFT) < 2
    feed.end()
    page.locator(DONE).get_by_role("button", name="Regenerate").wait_for()
    settled(page)
    assert page.locator(".messages").evaluate(LEFT) < 2
    assert page.evaluate("window.shifts.header") == []


def test_reasoning_folds_itself_unless_it_is_being_read(fed: FedSite, visit: Open) -> None:
    page = opened(fed, visit)
    fold = page.locator('details[data-name="reasoning"]')

    def thinking() -> Any:
        feed = fed.feed()
        ask(page, "How many steps?")
        for number in range(60):
            feed.say(reasoning_content=f"Step {number} of what is to be thought about.\n")
        until(page, lambda: "Step 59" in fold.last.inner_text())
        settled(page)
        return feed

    feed = thinking()
    assert fold.evaluate("(node) => node.open")
    feed.say(content="It has 214.")
    shown(page, "It has 214.")
    until(page, lambda: not fold.evaluate("(node) => node.open"))
    feed.end()
    page.locator(DONE).wait_for()

    feed = thinking()
    scroll_up(page, 300)
    line = fold.last.locator("p")
    place = line.evaluate("(node) => node.getBoundingClientRect().top")
    feed.say(content="It has 214 again.")
    shown(page, "It has 214 again.")
    feed.end()
    page.locator(DONE).nth(1).get_by_role("button", name="Regenerate").wait_for()
    settled(page)
    assert fold.last.evaluate("(node) => node.open")
    assert abs(line.evaluate("(node) => node.getBoundingClientRect().top") - place) <= ROUNDING


def test_pressed_control_stays_under_the_pointer(fed: FedSite, visit: Open) -> None:
    """Following the end, the list would take it away between the press and its release."""
    page = opened(fed, visit)
    feed = asked_after_a_long_answer(page, fed)
    fold = page.locator('details[data-name="reasoning"]')
    summary = fold.locator("summary")
    box = summary.bounding_box()
    page.mouse.move(box["x"] + 10, box["y"] + box["height"] / 2)
    page.mouse.down()
    feed.say(content=f"\n\n{INTRO}It goes on.\n\n")
    shown(page, "It goes on.")
    assert abs(summary.bounding_box()["y"] - box["y"]) <= ROUNDING
    page.mouse.up()
    until(page, lambda: fold.evaluate("(node) => node.open"))
    feed.say(content=f"{INTRO}It ends.\n\n")
    shown(page, "It ends.")
    assert page.locator(".messages").evaluate(LEFT) < 2
    feed.end()
    page.locator(DONE).nth(1).wait_for()


def asked_after_a_long_answer(page: Any, fed: FedSite) -> Any:
    first, feed = fed.feed(), fed.feed()
    ask(page, "Tell me about light.")
    first.say(content=INTRO * 9)
    first.end()
    page.locator(DONE).wait_for()
    ask(page, "How many steps?")
    feed.say(reasoning_content="Let me think about it.")
    feed.say(content="It begins.")
    shown(page, "It begins.")
    return feed


def test_selection_and_focus_survive_growing_text(fed: FedSite, visit: Open) -> None:
    page = opened(fed, visit)
    feed = fed.feed()
    ask(page, "Tell me about light.")
    long = "x = " + " + ".join(f"light_{number}" for number in range(80))
    feed.say(reasoning_content="Let me think about it.")
    feed.say(content=f"Some code:\n\n```python\n{long}\n")
    shown(page, "light_79")
    page.evaluate(
        """() => {
          const code = document.querySelector(".message.assistant pre > code");
          code.parentElement.scrollLeft = 300;
          getSelection().setBaseAndExtent(code.firstChild, 0, code.firstChild, 5);
          document.querySelector("details[data-name='reasoning'] summary").focus();
        }"""
    )
    feed.say(content="y = x\n")
    shown(page, "y = x")
    feed.say(content="```\n\nIt is done.")
    feed.end()
    page.locator(DONE).get_by_role("button", name="Regenerate").wait_for()
    page.locator(".hljs-number, .code-bar").first.wait_for()
    assert page.locator(".message.assistant pre").evaluate("(node) => node.scrollLeft") == 300
    assert page.evaluate("document.activeElement.textContent").startswith("Reasoning")
