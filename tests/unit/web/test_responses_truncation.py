"""`truncation` of /v1/responses: what is left out, and that it ends with its client."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.cancel import Cancel
from proxy.errors import Cancelled
from proxy.gateway.caller import ANYBODY
from proxy.prompting.bounds import MAX_SIZE
from proxy.web.conversation import Conversation
from tests.fakes import CAPS, ScriptedDriver, client, make_app, services_of

ROOM = CAPS.n_ctx  # a character is a token of the scripted driver


def body(*texts: str, **more: Any) -> dict[str, Any]:
    said = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"model": "scripted", "input": said, "truncation": "auto", **more}


def test_oldest_messages_go_where_the_context_is_too_small() -> None:
    driver = ScriptedDriver()
    here = client(driver)
    asked = body("first " * (ROOM // 6), "second", "third")
    assert here.post("/v1/responses", json={**asked, "truncation": "disabled"}).status_code == 400
    assert here.post("/v1/responses", json=asked).status_code == 200
    prompt = str(driver.tasks[-1].prompt)
    assert "second" in prompt and "third" in prompt and "first" not in prompt
    counted = here.post("/v1/responses/input_tokens", json=asked).json
    assert counted is not None and counted["input_tokens"] <= len(prompt) + 1


def test_message_that_no_template_may_render_is_left_out() -> None:
    """It was a 400: the prompt is too long."""
    driver = ScriptedDriver()
    asked = body("x" * (MAX_SIZE + 1), "second", "third")
    answer = client(driver, chat_template="chatml").post("/v1/responses", json=asked)
    assert answer.status_code == 200, answer.text
    assert "third" in str(driver.tasks[-1].prompt)
    assert len(driver.tasks[-1].prompt) < 200


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_shortening_ends_with_its_client(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    here = services_of(make_app(ScriptedDriver()))
    cancel = Cancel()
    if when == "before":
        cancel.cancel()
    counts = 0
    count = here.gateway.count

    def counted(*args: Any) -> int:
        nonlocal counts
        counts += 1
        cancel.cancel()
        return count(*args)

    monkeypatch.setattr(here.gateway, "count", counted)
    conversation = Conversation(here, {})
    request = conversation.parse(body(*["word " * 100] * 501))
    with pytest.raises(Cancelled):
        conversation.begin(request, cancel, ANYBODY)
    assert counts == (when == "meanwhile")
