"""Late binding on every API: the lines that a key or a model names, and nobody else's text."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from flask import Flask

from proxy.config import keys
from proxy.config.settings import BackendConfig, SettingsError
from tests.fakes import CAPS, ScriptedDriver, make_app, services_of

CLOCK = "The current time is 20:37:19."
SYSTEM = f"Be brief.\n{CLOCK}\n- names: Lamp\n  domain: light"
LATE = f"- names: Lamp\n  domain: light\nNow:\n{CLOCK}"
ASKED = f"{CLOCK}\nIs the lamp on?\nThanks."
TURNS = [{"role": "user", "content": ASKED}]
CHAT = {"messages": [{"role": "system", "content": SYSTEM}, *TURNS], "max_tokens": 9}
TOOL = {"name": "HassTurnOn", "description": "Turns on", "parameters": {"type": "object"}}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/messages": {"system": SYSTEM, "messages": TURNS, "max_tokens": 9},
    "/v1/responses": {"instructions": SYSTEM, "input": TURNS, "store": False},
    "/api/chat": {"model": "test-model", "messages": CHAT["messages"], "stream": False},
    "/api/generate": {"model": "test-model", "system": SYSTEM, "prompt": ASKED, "stream": False},
}
KEYS = keys.read(
    "home sk-home-0123456789 late_binding=The*current\nann sk-ann-0123456789\n", "keys"
)
HOME, ANN = ({"Authorization": f"Bearer sk-{name}-0123456789"} for name in ("home", "ann"))


def sent(
    app: Flask, driver: ScriptedDriver, path: str, body: dict[str, Any], headers: dict[str, str]
) -> tuple[str, list[str]]:
    """The prompt of a request, and its warnings."""
    answer = app.test_client().post(path, json=body, headers=headers)
    assert answer.status_code == 200, answer.get_data(as_text=True)
    return driver.tasks[-1].text, answer.headers.getlist("x-slotproxy-warning")


def is_late(prompt: str, warnings: list[str]) -> bool:
    """Whether the line of the system message was moved, as the header says. Nothing else was."""
    assert ASKED in prompt
    assert prompt.count(CLOCK) == 2
    if SYSTEM in prompt:
        assert not any("late_binding" in warning for warning in warnings)
        return False
    instructions = prompt.replace(ASKED, "")
    assert all(instructions.count(line) == 1 for line in SYSTEM.splitlines())
    assert instructions.index("domain: light") < instructions.index("Now:\n" + CLOCK)
    assert any("late_binding: moved" in warning for warning in warnings)
    return True


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("template", ["chatml", "legacy"])
def test_rule_of_a_key(path: str, template: str) -> None:
    driver = ScriptedDriver()
    app = make_app(driver, file_keys=KEYS, chat_template=template)
    for headers in (HOME, ANN):
        request = sent(app, driver, path, BODIES[path], headers)
        assert is_late(*request) == (headers is HOME)


def test_prompt_that_is_shown_is_the_one_that_would_be_sent() -> None:
    driver = ScriptedDriver()
    app = make_app(driver, file_keys=KEYS, chat_template="chatml")
    for headers in (HOME, ANN):
        prompt, _ = sent(app, driver, "/v1/chat/completions", CHAT, headers)
        shown = app.test_client().post("/apply-template", json=CHAT, headers=headers).get_json()
        assert shown["prompt"] == prompt


@pytest.mark.parametrize("tools", [(), ({"type": "function", "function": TOOL},)])
def test_rule_of_a_model(tools: tuple[dict[str, Any], ...]) -> None:
    """The moved lines are behind the tools, which are warm then."""
    driver = ScriptedDriver()
    app = make_app(driver, chat_template="chatml")
    registry = services_of(app).gateway.registry
    (backend,) = registry.pool("scripted")
    backend.config = BackendConfig(late_binding=("The current time is",))
    registry.rebuild()
    body = CHAT | {"tools": [*tools]}
    prompt, warnings = sent(app, driver, "/v1/chat/completions", body, {})
    assert is_late(prompt, warnings)
    assert prompt.find("HassTurnOn") < prompt.index("Now:")
    shown = app.test_client().post("/v1/explain", json=body).get_json()
    assert shown["prompt"] == prompt and any("late_binding" in w for w in shown["warnings"])


def test_server_that_renders_its_prompts_gets_one_system_message() -> None:
    """Its template may refuse a second one."""
    driver = ScriptedDriver(caps=msgspec.structs.replace(CAPS, native=True))
    sent(make_app(driver, file_keys=KEYS), driver, "/v1/chat/completions", CHAT, HOME)
    roles = [(message.role, message.content) for message in driver.tasks[-1].request.messages]
    assert roles == [("system", f"Be brief.\n{LATE}"), ("user", ASKED)]


@pytest.mark.parametrize("rule", ["**", "x" * 201])
def test_wrong_rule_of_a_key_is_refused(rule: str) -> None:
    known = keys.read(f"a sk-a-0123456789 late_binding={rule}\n", "keys")
    with pytest.raises(SettingsError, match="keys, line 1: late_binding is wrong: expected the"):
        make_app(ScriptedDriver(), file_keys=known)
