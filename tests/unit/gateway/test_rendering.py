"""Where prompts are rendered: on the event loop, or in a native thread."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from proxy.core.request import CompletionRequest, Message
from proxy.gateway import sent_prompt
from proxy.gateway.sent_prompt import AFTER_SLOW, LONG, SLOW, rendered
from proxy.prompting.prompt import Prompter
from proxy.prompting.template import templates


class Place:
    """Counts what runs in a thread; `takes` is the time of a rendering."""

    def __init__(self) -> None:
        self.threaded = 0
        self.takes = 0.0
        self._clock = 0.0

    def run(self, work: Callable[[], Any]) -> Any:
        self.threaded += 1
        return work()

    def clock(self) -> float:
        self._clock += self.takes
        return self._clock


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    place = Place()
    monkeypatch.setattr(sent_prompt, "run_in_native_thread", place.run)
    monkeypatch.setattr(sent_prompt, "thread_time", place.clock)
    monkeypatch.setattr(sent_prompt, "monotonic", place.clock)
    return place


def render(prompter: Prompter, messages: int = 1) -> None:
    request = CompletionRequest(messages=(Message(role="user", content="Hello"),) * messages)
    rendered(prompter, request, datetime(2026, 1, 1))


def template() -> Prompter:
    return Prompter(templates.compile("{{ messages[0].content }}", "test"))


def test_only_the_first_prompt_of_a_quick_template_is_rendered_in_a_thread(place: Place) -> None:
    prompter = template()
    for _ in range(5):
        render(prompter)
    assert place.threaded == 1


def test_a_slow_template_is_rendered_in_a_thread_for_a_while(place: Place) -> None:
    prompter = template()
    render(prompter)
    place.takes = 2 * SLOW
    render(prompter)  # on the event loop: nobody knew
    render(prompter)
    place.takes = 0.0
    for _ in range(2 * AFTER_SLOW):
        render(prompter)
    assert place.threaded == 2 + AFTER_SLOW


def test_a_wait_for_another_thread_sends_only_the_next_prompt_to_a_thread(place: Place) -> None:
    prompter = template()
    render(prompter)
    place.takes = 2 * SLOW
    render(prompter)
    place.takes = 0.0
    for _ in range(5):
        render(prompter)
    assert place.threaded == 2


def test_first_prompts_at_the_same_time_do_not_send_all_later_ones_to_a_thread(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompter = template()

    def run(work: Callable[[], Any]) -> Any:
        if not place.threaded:
            place.threaded += 1
            render(prompter)  # another request, before this one is rendered
            return work()
        return place.run(work)

    monkeypatch.setattr(sent_prompt, "run_in_native_thread", run)
    for _ in range(5):
        render(prompter)
    assert place.threaded == 2


def test_a_long_conversation_is_rendered_in_a_thread_and_tells_nothing_of_others(
    place: Place,
) -> None:
    prompter = template()
    render(prompter)
    place.takes = 2 * SLOW
    render(prompter, messages=LONG)
    render_again = place.threaded
    place.takes = 0.0
    render(prompter)
    assert (render_again, place.threaded) == (2, 2)
