"""Images for a model that does not see: described by the model of `--vision`."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flask import Flask

from proxy.backends.pools import Backend
from proxy.config import ApiKey, Secret, Settings
from proxy.errors import BackendFailed
from proxy.gateway import seeing
from tests.apps import app_on
from tests.fakes import (
    CAPS,
    Script,
    ScriptedDriver,
    ledger_of,
    make_app,
    say,
    services_of,
    wait_until,
)
from tests.unit.gateway.test_control_tokens import INJECTION
from tests.unit.gateway.test_media import EYES, PNG

OTHER = "data:image/png;base64," + base64.b64encode(b"z" * 30).decode()
BLIND = msgspec.structs.replace(CAPS, models=("blind",))
SEES = msgspec.structs.replace(EYES, models=("eyes",))
TEXT = "A red square"
DESCRIBED = f"[An image, described by another model]\n{TEXT}\n[End of the description]"
KEYS = tuple(
    ApiKey(name, Secret(f"sk-{name}-0123456789"), options=options)
    for name, options in {"ann": {"models": "*"}, "bob": {}, "cyd": {"models": "blind"}}.items()
)


def gateway(script: Script = (), **settings: Any) -> tuple[Flask, ScriptedDriver, ScriptedDriver]:
    """A gateway whose model `eyes` describes images, and the drivers of `blind` and `eyes`."""
    blind = ScriptedDriver(say("Nice"), BLIND)
    eyes = ScriptedDriver(script or say(TEXT), SEES)
    app = make_app(blind, eyes, **{"vision": "eyes", "chat_template": "chatml", **settings})
    return app, blind, eyes


def picture(url: str = PNG, **fields: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def content(*parts: str | dict[str, Any]) -> dict[str, Any]:
    """A user's message of texts and images."""
    made = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"role": "user", "content": made}


def ask(app: Flask, *messages: dict[str, Any], key: str = "", **body: Any) -> Any:
    headers = {"Authorization": f"Bearer sk-{key}-0123456789"} if key else {}
    body = {"model": "blind", "messages": messages, "max_tokens": 50, **body}
    return app.test_client().post("/v1/chat/completions", json=body, headers=headers)


def prompts(driver: ScriptedDriver) -> list[str]:
    return [str(task.prompt) for task in driver.tasks]


def test_description_stands_where_the_image_was_and_the_answer_says_so() -> None:
    app, blind, eyes = gateway()
    answer = ask(app, content("before", picture(), "after"))
    assert answer.get_json()["choices"][0]["message"]["content"] == "Nice"
    assert answer.get_json()["model"] == "blind"
    words = "images: described by the model eyes, as blind does not see"
    assert words in answer.headers.getlist("x-slotproxy-warning")
    (prompt,) = prompts(blind)
    assert f"before\n{DESCRIBED}\nafter" in prompt
    (task,) = eyes.tasks
    (message,) = task.request.messages
    assert [media.url for media in message.media] == [PNG]
    assert message.content.endswith("It comes with this message:\nbefore\nafter")


DATA = PNG.partition(",")[2]
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}}
URL = {"type": "input_image", "image_url": PNG}
APIS: Mapping[str, dict[str, Any]] = {
    "/v1/messages": {"messages": [{"role": "user", "content": [IMAGE]}], "max_tokens": 9},
    "/v1/responses": {"input": [{"role": "user", "content": [URL]}]},
    "/api/chat": {"messages": [{"role": "user", "content": "", "images": [DATA]}]},
    "/api/generate": {"prompt": "Look", "images": [DATA]},
}


@pytest.mark.parametrize("path", APIS)
def test_images_of_every_api_are_described(path: str) -> None:
    app, blind, _ = gateway()
    body = {"model": "blind", "stream": False, **APIS[path]}
    answer = app.test_client().post(path, json=body)
    assert answer.status_code == 200, answer.get_json()
    assert any("described" in told for told in answer.headers.getlist("x-slotproxy-warning"))
    assert DESCRIBED in prompts(blind)[0]


def test_prompt_of_the_next_turn_begins_alike_and_nothing_is_described_again() -> None:
    app, blind, eyes = gateway()
    first = content("What is it?", picture(), picture(OTHER))
    ask(app, first)
    said = {"role": "assistant", "content": "Nice"}
    ask(app, first, said, {"role": "user", "content": "Sure?"}, stream=True).get_data()
    once, again = prompts(blind)
    assert again.startswith(once)
    assert len(eyes.tasks) == 2  # one for each image


def test_another_question_or_detail_needs_another_description() -> None:
    app, _, eyes = gateway()
    ask(app, content("How many?", picture()))
    ask(app, content("Who?", picture()))
    ask(app, content("Who?", picture(detail="low")))
    ask(app, content("Who?", picture()))
    assert [task.max_tokens for task in eyes.tasks] == [768, 768, 128]


def test_groups_of_keys_share_no_descriptions() -> None:
    app, _, eyes = gateway(file_keys=KEYS)
    for key, count in (("ann", 1), ("bob", 2), ("ann", 2)):
        assert ask(app, content(picture()), key=key).status_code == 200
        assert len(eyes.tasks) == count


def test_control_tokens_in_a_description_do_not_act() -> None:
    for setting in ("break", "keep"):
        app, blind, _ = gateway(say(INJECTION), user_control_tokens=setting)
        ask(app, content(picture()))
        (task,) = blind.tasks
        assert isinstance(task.prompt, str)
        assert INJECTION in task.prompt
        at = task.prompt.index(INJECTION)
        assert [at < place < at + len(INJECTION) for place in task.breaks] == [True, True]


def test_stream_begins_with_the_warning() -> None:
    app, _, _ = gateway()
    answer = ask(app, content(picture()), stream=True)
    assert any("described" in told for told in answer.headers.getlist("x-slotproxy-warning"))
    assert "Nice" in answer.get_data(as_text=True)


def test_names_of_models_may_have_any_letters() -> None:
    eyes = ScriptedDriver(say(TEXT), msgspec.structs.replace(EYES, models=("眼",)))
    blind = ScriptedDriver(say("Nice"), msgspec.structs.replace(BLIND, models=("blöd",)))
    app = make_app(blind, eyes, vision="眼")
    answer = ask(app, content(picture()), model="blöd")
    assert answer.status_code == 200
    assert all(told.isascii() for told in answer.headers.getlist("x-slotproxy-warning"))
    assert "as bl\\xf6d does not see" in answer.headers["x-slotproxy-warning"]


def test_image_waits_until_it_is_known_whether_the_model_sees() -> None:
    blind, eyes = ScriptedDriver(say("Nice"), BLIND, up=False), ScriptedDriver(say(TEXT), SEES)
    backends = [
        Backend("b0", "test://0", blind, set_model="blind"),
        Backend("b1", "test://1", eyes, set_model="eyes"),
    ]
    patient = Settings(vision="eyes", ledger_days=0, wait_for_backend=20.0, max_queue=2)
    app = app_on(backends, patient)
    gateway = services_of(app).gateway
    wait_until(lambda: gateway.registry.settled)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, app, content("What is it?", picture()))
        wait_until(lambda: gateway._early._value == 1)
        blind.up = True
        assert answer.result(60).status_code == 200
    assert DESCRIBED in prompts(blind)[0]
    gateway.registry.close()


def test_models_that_see_get_the_image_itself() -> None:
    app, blind, eyes = gateway()
    answer = ask(app, content(picture()), model="eyes")
    assert "x-slotproxy-warning" not in answer.headers
    assert not blind.tasks
    assert eyes.tasks[0].request.messages[0].media
    app, blind, _ = gateway(vision="blind")  # a mistake of the operator, told as one
    assert (
        "does not accept image input" in ask(app, content(picture())).get_json()["error"]["message"]
    )


def test_key_needs_the_model_that_describes() -> None:
    app, blind, eyes = gateway(file_keys=KEYS)
    answer = ask(app, content(picture()), key="cyd")
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"]) == (403, "model_forbidden")
    assert error["message"].startswith("an image could not be described: this API key may not use")
    assert not blind.tasks and not eyes.tasks
    assert ask(app, content("Hi"), key="cyd").status_code == 200


def test_tokens_of_a_description_count_for_the_key() -> None:
    keys = (ApiKey("ann", KEYS[0].secret, options={"tpm_limit": "1000"}),)
    left, began = [], time.monotonic()
    for asked in ("Hi", picture()):
        app, *_ = gateway(file_keys=keys)
        assert ask(app, content(asked), key="ann").get_json()["usage"]["total_tokens"] == 10
        headers = ask(app, content("Hi"), key="ann").headers
        left.append(int(headers["x-ratelimit-remaining-tokens"]))
    came_back = 1 + 1000 / 60 * (time.monotonic() - began)  # as time passes
    assert 10 - came_back <= left[0] - left[1] <= 10 + came_back


def test_tokens_of_a_description_are_in_the_ledger(tmp_path: Path) -> None:
    app, *_ = gateway(ledger_days=90, file_keys=KEYS, data=str(tmp_path))
    ask(app, content(picture()), key="ann")
    (row,) = ledger_of(app).newest(0, 1 << 62, {}, 9)
    assert (row.key, row.model) == ("ann", "blind")
    assert (row.prompt, row.completion) == (14, 6)  # two answers of 7 and 3


@pytest.mark.parametrize(
    ("script", "status", "words"),
    [
        ([BackendFailed("it broke")], 502, "an image could not be described: it broke"),
        (say(" "), 502, "an image could not be described: the model eyes wrote nothing"),
    ],
)
def test_failed_description_ends_the_request(script: Script, status: int, words: str) -> None:
    app, blind, _ = gateway(script)
    answer = ask(app, content(picture()))
    assert (answer.status_code, answer.get_json()["error"]["message"]) == (status, words)
    assert not blind.tasks


def test_number_of_images_that_are_described_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeing, "MOST", 1)
    app, _, eyes = gateway()
    assert ask(app, content(picture())).status_code == 200
    assert ask(app, content(picture(), picture(OTHER))).status_code == 400
    assert len(eyes.tasks) == 1


def test_descriptions_in_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeing, "KEPT", 8 * len(DESCRIBED))
    app, _, eyes = gateway()
    for number in range(9):
        ask(app, content(str(number), picture()))
    ask(app, content("8", picture()))
    assert len(eyes.tasks) == 9
    ask(app, content("0", picture()))
    assert len(eyes.tasks) == 10


def test_explanation_says_that_images_are_described_first() -> None:
    app, _, eyes = gateway()
    body = {"model": "blind", "messages": [content(picture(), picture(OTHER))]}
    told = app.test_client().post("/v1/explain", json=body).get_json()
    assert (told["model"], told["describes_first"]) == ("blind", 2)
    assert not eyes.tasks
