"""`truncation` of /v1/responses: dropped messages, and the end with the client."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.apis.responses.routes.dialect import ResponsesDialect
from proxy.errors import Cancelled
from proxy.gateway.context import ANYBODY
from proxy.prompting.template.bounds import MAX_SIZE
from proxy.runtime.cancel import Cancel
from tests.fakes import CAPS, ScriptedDriver, client, make_app, services_of

ROOM = CAPS.n_ctx  # a character is a token of the scripted driver


def body(*texts: str, **more: Any) -> dict[str, Any]:
    said = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"model": "scripted", "input": said, "truncation": "auto", **more}


def test_oldest_messages_are_dropped_to_fit_the_context() -> None:
    driver = ScriptedDriver()
    here = client(driver)
    request = body("first " * (ROOM // 6), "second", "third")
    assert here.post("/v1/responses", json={**request, "truncation": "disabled"}).status_code == 400
    assert here.post("/v1/responses", json=request).status_code == 200
    prompt = str(driver.tasks[-1].prompt)
    assert "second" in prompt and "third" in prompt and "first" not in prompt
    counted = here.post("/v1/responses/input_tokens", json=request).json
    assert counted is not None and counted["input_tokens"] <= len(prompt) + 1


def test_message_that_no_template_renders_is_dropped() -> None:
    """It was a 400: the prompt is too long."""
    driver = ScriptedDriver()
    request = body("x" * (MAX_SIZE + 1), "second", "third")
    answer = client(driver, chat_template="chatml").post("/v1/responses", json=request)
    assert answer.status_code == 200, answer.text
    assert "third" in str(driver.tasks[-1].prompt)
    assert len(driver.tasks[-1].prompt) < 200


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_truncation_stops_when_the_client_leaves(
    monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    here = services_of(make_app(ScriptedDriver()))
    cancel = Cancel()
    if when == "before":
        cancel.cancel()
    counts = 0
    count = here.gateway.count

    def counted(*args: Any, **named: Any) -> int:
        nonlocal counts
        counts += 1
        cancel.cancel()
        return count(*args, **named)

    monkeypatch.setattr(here.gateway, "count", counted)
    conversation = ResponsesDialect(here, {})
    request = conversation.parse(body(*["word " * 100] * 501))
    with pytest.raises(Cancelled):
        conversation.begin(request, cancel, ANYBODY)
    assert counts == (when == "meanwhile")
