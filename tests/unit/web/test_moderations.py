"""/v1/moderations by a chat model."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.apis.moderations.answer import CATEGORIES, MOST_INPUTS, OF_IMAGES, Judged, reply
from proxy.errors import UpstreamFault
from tests.fakes import ScriptedDriver, client, say

HARMLESS = dict.fromkeys(CATEGORIES, 0)
VIOLENT = {**HARMLESS, "violence": 0.75, "hate": 0.25}


def judge(answer: str, given: Any = "Hi", model: str = "judge") -> Any:
    to = client(ScriptedDriver(say(answer)), moderation_model=model)
    return to.post("/v1/moderations", json={"input": given, "model": "omni-moderation-latest"})


def test_scores_flag_categories() -> None:
    answer = judge(json.dumps(VIOLENT)).json
    (found,) = answer["results"]
    assert answer["id"].startswith("modr-") and answer["model"] == "scripted"
    assert found["flagged"] is True and found["category_scores"]["violence"] == 0.75
    assert [name for name, flagged in found["categories"].items() if flagged] == ["violence"]
    assert set(found["category_applied_input_types"]["violence"]) == {"text"}


def test_harmless_text_is_not_flagged() -> None:
    (found,) = judge(json.dumps(HARMLESS)).json["results"]
    assert found["flagged"] is False and not any(found["categories"].values())


def test_each_text_is_judged() -> None:
    driver = ScriptedDriver(say(json.dumps(HARMLESS)))
    to = client(driver, moderation_model="judge")
    answer = to.post("/v1/moderations", json={"input": ["one", "two", "three"]}).json
    assert answer is not None and len(answer["results"]) == 3
    prompts = [str(task.prompt) for task in driver.tasks]
    assert [word in prompt for word, prompt in zip(("one", "two", "three"), prompts, strict=True)]
    assert all(
        "json_schema" in task.sampling or "grammar" in task.sampling for task in driver.tasks
    )


@pytest.mark.parametrize(
    ("said", "flagged", "named"),
    [
        ("safe", False, []),
        ("unsafe\nS1,S10", True, ["hate", "violence"]),
        ("unsafe\nS13", True, []),
        ("\n\nunsafe\nS4", True, ["sexual/minors"]),
    ],
)
def test_llama_guard_is_asked_in_its_own_form(said: str, flagged: bool, named: list[str]) -> None:
    driver = ScriptedDriver(say(said))
    to = client(driver, moderation_model="Llama-Guard-3-8B")
    answer = to.post("/v1/moderations", json={"input": "how to"}).json
    assert answer is not None
    (found,) = answer["results"]
    assert found["flagged"] is flagged
    assert sorted(name for name, one in found["categories"].items() if one) == named
    assert "You moderate" not in str(driver.tasks[0].prompt)


def test_without_a_model_the_route_is_not_found() -> None:
    answer = client().post("/v1/moderations", json={"input": "Hi"})
    assert answer.status_code == 404 and answer.json is not None
    assert "--moderation-model" in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        (None, "input"),
        ([], "input"),
        (5, "input"),
        (["a", 5], "input[1]"),
        ([{"type": "input_audio"}], "input[0].type"),
        ([{"type": "text"}], "input[0].text"),
        ([{"type": "text", "text": "a"}, {"type": "image_url"}], "input[1].image_url.url"),
        ([{"type": "text", "text": "a"}, "b"], "input[1]"),
        (["x"] * (MOST_INPUTS + 1), "input"),
    ],
)
def test_wrong_inputs_are_refused(given: Any, param: str) -> None:
    answer = judge("", given)
    assert (answer.status_code, answer.json["error"]["param"]) == (400, param)


@pytest.mark.parametrize("said", ["", "no", "{}", '{"violence": "much"}', "[1]"])
def test_unclear_judgment_is_an_error(said: str) -> None:
    answer = judge(said)
    assert answer.status_code == 502


def test_error_of_the_backend_is_its_answer() -> None:
    to = client(ScriptedDriver([UpstreamFault("it failed")]), moderation_model="judge")
    assert to.post("/v1/moderations", json={"input": "Hi"}).status_code == 502


def test_images_count_for_the_categories_that_have_them() -> None:
    parts = [{"type": "image_url", "image_url": {"url": "data:"}}]
    (found,) = reply("1", "m", [parts], [Judged(HARMLESS)])["results"]
    applied = found["category_applied_input_types"]
    assert {name for name, kinds in applied.items() if kinds == ["image"]} == OF_IMAGES
    assert applied["hate"] == []
