"""The chat page prewarms a question while it is typed."""

from __future__ import annotations

from typing import Any

from tests.integration.asking import fetch
from tools.processes import Gateway

from .conftest import Open
from .test_chat import answered, ask, until


def prewarmed(site: Gateway) -> list[dict[str, Any]]:
    """The requests without an answer that have ended, the newest first."""
    ended = fetch(site.url, "/v1/requests")[2]["data"]
    return [row for row in ended if not row["completion_tokens"] and row["prompt_tokens"]]


def test_question_is_evaluated_while_it_is_typed(site: Gateway, visit: Open) -> None:
    page = visit(f"{site.url}/")
    ask(page, "Hello!")
    answered(page)
    before = len(prewarmed(site))
    box = page.locator("#text")
    box.press_sequentially("Good mor")
    until(page, lambda: len(prewarmed(site)) > before)
    # The rest of a short question is not worth another request.
    box.press_sequentially("ning!")
    box.press("Enter")
    page.locator(".message.user .said", has_text="Good morning!").wait_for()
    answered(page)
    assert len(prewarmed(site)) == before + 1
    warm = prewarmed(site)[0]

    def is_continued() -> bool:
        ended = fetch(site.url, "/v1/requests")[2]["data"]  # the answer's a moment after its end
        since = ended[: [row["id"] for row in ended].index(warm["id"])]  # also that of a title
        return any(row["cached_tokens"] >= warm["prompt_tokens"] // 2 for row in since)

    until(page, is_continued)
