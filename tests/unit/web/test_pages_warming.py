"""The chat page prewarms while the user types: only where that costs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.fakes import CAPS, ScriptedDriver, say
from tests.unit.web.account_client import keyed
from tests.unit.web.test_pages_chat import API, Page

TYPED: dict[str, Any] = {"text": "And then what", "options": {"system": "Be brief."}}


def test_question_continues_what_was_typed(tmp_path: Path) -> None:
    page = Page(ScriptedDriver(say("Hel", "lo")), tmp_path)
    page.ask(options=TYPED["options"])
    leaf = page.over()["id"]
    place = {"parent_id": leaf, "conversation": page.talk}
    assert page.post("/warm", {**TYPED, **place}).status_code == 204
    warmed = page.driver.tasks[-1]
    assert warmed.max_tokens == 0 and warmed.prompt.endswith(TYPED["text"])
    assert [message["role"] for message in page.messages()] == ["user", "assistant"]
    page.ask(text="And then what happened?", parent_id=leaf, options=TYPED["options"])
    page.over()
    assert page.driver.tasks[-1].prompt.startswith(warmed.prompt)


@pytest.mark.parametrize("kind", ["agent", "search", "knowledge"])
def test_question_with_tools_or_documents_is_not_prewarmed(tmp_path: Path, kind: str) -> None:
    page = Page(ScriptedDriver(), tmp_path)
    assert page.post("/warm", {**TYPED, "options": {"kind": kind}}).status_code == 204
    assert not page.driver.tasks


def test_server_that_renders_prompts_itself_is_not_asked(tmp_path: Path) -> None:
    """It may take money for each token."""
    page = Page(ScriptedDriver(caps=msgspec.structs.replace(CAPS, native=True)), tmp_path)
    assert page.post("/warm", TYPED).status_code == 204
    assert not page.driver.tasks


def test_key_with_limits_pays_for_its_questions_alone(tmp_path: Path) -> None:
    driver = ScriptedDriver()
    http = keyed(driver, tmp_path)
    for options, count in (({}, 1), ({"rpm_limit": 5}, 1)):
        assert http.post(f"{API}/warm", http.make(**options)["key"], **TYPED).status_code == 204
        assert len(driver.tasks) == count
