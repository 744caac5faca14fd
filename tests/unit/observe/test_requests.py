"""The routes of requests: who sees which, what an opened one says, and cancelling."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from flask import Flask

from proxy.apis.requests import routes
from proxy.backends.driver import Capabilities
from proxy.config import ApiKey
from proxy.core.task import Task
from proxy.core.usage import Usage
from proxy.gateway import Info
from proxy.observe import cold, ring
from proxy.runtime.cancel import Cancel
from proxy.web.observability import Record
from tests.fakes import (
    CAPS,
    ScriptedDriver,
    ScriptedRun,
    ledger_of,
    make_app,
    say,
    services_of,
    wait_until,
)
from tests.unit.store.test_ledger import row
from tests.unit.web.ledger.test_usage_routes import ADMIN, ANN, KEYS

CHAT = {"messages": [{"role": "user", "content": "Hello!"}]}
REQUESTS = "/v1/requests"
STEPS = ["prepare", "prefill", "decode", "other"]


def app_with(driver: ScriptedDriver, **settings: Any) -> Flask:
    return make_app(driver, file_keys=KEYS, admins=("root",), **settings)


def ask(app: Flask, headers: dict[str, str] = ANN, **body: Any) -> str:
    """The id of an answered request."""
    answer = app.test_client().post("/v1/chat/completions", json=CHAT | body, headers=headers)
    assert answer.status_code == 200, answer.get_json()
    return answer.headers["x-request-id"]


def get(app: Flask, path: str = REQUESTS, headers: dict[str, str] = ANN, **query: Any) -> Any:
    return app.test_client().get(path, query_string=query, headers=headers)


def test_answered_request_says_where_it_was_and_why() -> None:
    app = app_with(ScriptedDriver(say("Hi")))
    name = ask(app)
    one = get(app, f"{REQUESTS}/{name}").get_json()
    assert (one["state"], one["outcome"], one["key"]) == ("ended", "ok", "ann")
    assert (one["prompt_tokens"], one["cached_tokens"], one["evaluated_tokens"]) == (7, 2, 5)
    assert [step["step"] for step in one["timeline"]] == STEPS
    assert sum(step["seconds"] for step in one["timeline"]) == pytest.approx(
        one["seconds"], abs=0.01
    )
    decision = one["decision"]
    assert (decision["expected_tokens"], decision["turns_before"]) == (0, 0)
    assert decision["reason"]["cause"] == "new"
    assert decision["reason"]["sentence"].startswith("This is the first request")
    assert one.pop("captured") is False
    assert one.pop("slot_before") == []
    assert get(app).get_json()["data"] == [one]


@pytest.mark.parametrize("hours", [(10, 11), (9, 10)])
def test_time_in_the_system_prompt_is_found(hours: tuple[int, int]) -> None:
    app = app_with(ScriptedDriver(say("Hi")))
    for hour, count in zip(hours, (2, 4), strict=True):
        talk = [("system", f"It is {hour}:00."), ("user", "Hello!"), ("assistant", "Hi")]
        talk = [*talk, ("user", "Go on.")][:count]
        name = ask(app, messages=[{"role": role, "content": text} for role, text in talk])
    reason = get(app, f"{REQUESTS}/{name}").get_json()["decision"]["reason"]
    assert reason["cause"] == "head"
    begin, end = reason["values"]["begin"], reason["values"]["end"]
    words = reason["difference"]
    assert end - begin == cold.PIECE and f"{hours[1]}:00" in words["before"] + words["after"]
    assert f"message 1 first differs between character {begin} and {end}" in reason["sentence"]


DEVICES = "\n".join(f"- names: Lamp {n}\n  domain: light\n  areas: Room {n % 7}" for n in range(99))
LARGE = msgspec.structs.replace(CAPS, n_ctx=65536)
RULES = "You are a voice assistant. Answer in plain text.\n"


def one_turn(app: Flask, head: str, say: str, body: str = DEVICES) -> dict[str, Any]:
    """The reason of a chat of one question."""
    system = {"role": "system", "content": f"{RULES}{head}\n{body}"}
    question = {"role": "user", "content": say}
    headers = ANN | {"x-slotproxy-explain": "1"}
    body_ = {"messages": [system, question]}
    answer = app.test_client().post("/v1/chat/completions", json=body_, headers=headers)
    shown = json.loads(answer.headers["x-slotproxy-decision"])["reason"]
    assert "difference" not in shown and "It is" not in json.dumps(shown)
    name = answer.headers["x-request-id"]
    reason = get(app, f"{REQUESTS}/{name}").get_json()["decision"]["reason"]
    assert {**reason, "difference": 0} == {**shown, "difference": 0}
    return dict(reason)


@pytest.mark.parametrize(
    "head", ["It is 11:31.", "It is 9:05 in the evening.", "", f"It is {'x' * 60}"]
)
def test_clock_in_chats_of_one_question_is_found(head: str) -> None:
    app = app_with(ScriptedDriver(say("Hi", usage=Usage(2000, 1, 12)), LARGE))
    first = one_turn(app, "It is 11:30.", "Turn on the lights.")
    assert first["cause"] == "new"
    reason = one_turn(app, head, "What is on in the kitchen, and why is it still on?")
    assert reason["cause"] == "head"
    values, words = reason["values"], reason["difference"]
    assert head[-20:] in words["before"] + words["after"]
    assert (values["message"], values["evaluated"]) == (1, 1988)
    assert values["begin"] < 256 and values["token"] < 100
    assert "1988 tokens were evaluated again" in reason["sentence"]


def test_clock_is_found_beside_other_rooms() -> None:
    """Three satellites take turns: another room each time, far behind the clock."""
    app = app_with(ScriptedDriver(say("Hi", usage=Usage(2000, 1, 12)), LARGE))
    for number, room in enumerate(["Kitchen", "Living room", "Hall"] * 2):
        body = f"{RULES * 8}You are in area {room}.\n{DEVICES}"
        reason = one_turn(app, f"It is 11:{number + 30}.", f"Question {number}", body)
        assert reason["cause"] == ("head" if number else "new")
    assert "Requests with a change there: 4 of the last 4." in reason["sentence"]


@pytest.mark.parametrize("change", ["question", "devices", "all"])
def test_other_chats_of_one_question_are_new(change: str) -> None:
    app = app_with(ScriptedDriver(say("Hi", usage=Usage(2000, 1, 12)), LARGE))
    one_turn(app, "It is 11:30.", "Turn on the lights. " * 60)
    other = {
        "question": ("It is 11:30.", "What is on?" * 99, DEVICES),
        "devices": ("It is 11:30.", "Turn on the lights. " * 60, DEVICES[::-1]),
        "all": ("Speak French.", "What is on?" * 99, DEVICES[::-1]),
    }
    assert one_turn(app, *other[change])["cause"] == "new"


@pytest.mark.parametrize("stream", [False, True])
def test_header_adds_the_decision_to_an_answer(stream: bool) -> None:
    app = app_with(ScriptedDriver(say("Hi")))
    post = app.test_client().post
    for value, wanted in (("", False), ("0", False), ("1", True)):
        headers = ANN | {"x-slotproxy-explain": value}
        answer = post("/v1/chat/completions", json=CHAT | {"stream": stream}, headers=headers)
        assert answer.data
        assert ("x-slotproxy-decision" in answer.headers) is wanted
    decision = json.loads(answer.headers["x-slotproxy-decision"])
    assert decision["backend"] == answer.headers["x-slotproxy-backend"] == "backend-1"
    assert decision["reason"]["cause"] in ring.sentences()


def test_owners_see_theirs_and_administrators_all() -> None:
    app = app_with(ScriptedDriver(say("Hi")))
    name = ask(app, ADMIN)
    assert get(app).get_json()["data"] == []
    assert get(app, f"{REQUESTS}/{name}").status_code == 404
    assert get(app, scope="all").status_code == 403
    mine = ask(app)
    listed = get(app, headers=ADMIN, scope="all").get_json()["data"]
    assert [one["id"] for one in listed] == [mine, name]
    assert get(app, f"{REQUESTS}/{mine}", ADMIN).status_code == 200


def test_filters_and_wrong_queries() -> None:
    app = app_with(ScriptedDriver(say("Hi")))
    name = ask(app)
    model = get(app).get_json()["data"][0]["model"]
    for query, found in (
        ({"model": model, "api": "openai", "outcome": "ok"}, [name]),
        ({"outcome": "cancelled"}, []),
        ({"end_time": 5, "start_time": 1}, []),
    ):
        assert [one["id"] for one in get(app, **query).get_json()["data"]] == found
    for query, param in (
        ({"limit": routes.MOST + 1}, "limit"),
        ({"model": "m" * (routes.LONGEST + 1)}, "model"),
        ({"start_time": "now"}, "start_time"),
    ):
        answer = get(app, **query)
        assert answer.status_code == 400 and answer.get_json()["error"]["param"] == param


def test_older_requests_come_from_the_ledger(tmp_path: Path) -> None:
    app = app_with(ScriptedDriver(say("Hi")), data=str(tmp_path))
    hour_ago = int(1000 * time.time()) - 3_600_000
    ledger_of(app).write(
        "test", 1, [row(ended=hour_ago, request="old"), row(ended=hour_ago, key="root")]
    )
    name = ask(app)
    ledger_of(app).write("test", 2, [row(ended=int(1000 * time.time()), request=name)])
    assert [one["id"] for one in get(app).get_json()["data"]] == [name, "old"]
    assert [one["id"] for one in get(app, stored="false").get_json()["data"]] == [name]
    old = get(app, f"{REQUESTS}/old").get_json()
    assert old["outcome"] == "ok" and "decision" not in old


def test_number_of_remembered_requests_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that somebody looked at and those since count together."""
    monkeypatch.setattr(ring, "KEPT", 4)
    app = app_with(ScriptedDriver(say("Hi")))
    requests = services_of(app).requests
    names = []
    for looks in (False, True, False):
        names += [ask(app) for _ in range(3)]
        if looks:
            assert len([*requests.ended(lambda key: True)]) == 4
    assert len(requests._finished) + len(requests._ended) == 4
    seen = [seen.row.request for seen in requests.ended(lambda key: True)]
    assert seen == names[:-5:-1]


class Waiting(ScriptedDriver):
    """Answers only when it is cancelled."""

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> ScriptedRun:
        cancel.wait(30)
        cancel.check()
        return super().stream(task, slot, caps, cancel)


def cancelled(
    app: Flask, by: dict[str, str], path: str = "/v1/chat/completions", **body: Any
) -> tuple[Any, Any, str]:
    """A request of ann that this key cancels: its answer, the canceller's, and its id."""

    def running() -> list[Any]:
        found: list[Any] = get(app, headers=ADMIN, scope="all").get_json()["running"]
        return found

    def post() -> Any:
        return app.test_client().post(path, json=CHAT | body, headers=ANN)

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post)
        wait_until(lambda: [(one["state"], one["slot"]) for one in running()] == [("prefill", 0)])
        (one,) = running()
        assert (one["key"], one["outcome"]) == ("ann", "")
        assert one["decision"]["reason"]["cause"] == "new"
        ended = app.test_client().post(f"{REQUESTS}/{one['id']}/cancel", headers=by)
        return answer.result(30), ended, one["id"]


def test_clients_of_anthropic_and_ollama_read_the_code_of_a_cancelled_request() -> None:
    app = app_with(Waiting(say("Hi")))
    answer, *_ = cancelled(app, ANN, "/v1/messages", max_tokens=8)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (409, "request_cancelled")
    app = app_with(Waiting(say("Hi")))
    answer, *_ = cancelled(app, ANN, "/api/chat", stream=False)
    assert (answer.status_code, answer.get_json()["code"]) == (409, "request_cancelled")


@pytest.mark.parametrize(("by", "name"), [(ADMIN, "root"), (ANN, "ann")])
def test_client_of_a_cancelled_request_reads_who_ended_it(
    by: dict[str, str], name: str, tmp_path: Path
) -> None:
    app = app_with(Waiting(say("Hi")), data=str(tmp_path))
    answer, ended, request = cancelled(app, by)
    assert ended.get_json() == {"id": request, "object": "request", "cancelled": 1}
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"]) == (409, "request_cancelled")
    assert answer.headers["x-should-retry"] == "false"  # or the clients of OpenAI ask again
    assert error["message"] == f"this request was cancelled by the API key {name!r}"
    scheduler = services_of(app).gateway.scheduler
    assert all(
        not scheduler.in_flight(backend) for backend in services_of(app).gateway.registry.backends
    )
    assert get(app, f"{REQUESTS}/{request}").get_json()["outcome"] == "cancelled"
    changes = get(app, "/v1/audit", ADMIN).get_json()["data"]
    assert [(one["actor"], one["action"], one["kind"], one["subject"]) for one in changes] == [
        (name, "cancel", "request", request)
    ]


def test_only_own_requests_that_run_can_be_cancelled() -> None:
    app = app_with(ScriptedDriver(say("Hi")))
    name = ask(app, ADMIN)
    for path in (name, "nothing"):
        answer = app.test_client().post(f"{REQUESTS}/{path}/cancel", headers=ANN)
        assert answer.status_code == 404
        assert "running" in answer.get_json()["error"]["message"]


def test_page_has_the_same_routes() -> None:
    app = app_with(ScriptedDriver(say("Hi")))
    name = ask(app)
    assert get(app, "/pages/api/requests").get_json() == get(app).get_json()
    assert get(app, f"/pages/api/requests/{name}").get_json()["id"] == name


HEAD = "You are a helpful assistant of the harbour. " * 4


def talk_with(clock: str) -> list[dict[str, str]]:
    texts = [("system", f"{HEAD}It is {clock}, and the sails are red."), ("user", "Hello!")]
    return [{"role": role, "content": text} for role, text in texts]


def test_words_around_the_first_difference() -> None:
    app = app_with(ScriptedDriver(say("Hi")))
    ask(app, messages=talk_with("10:00"))
    more = [{"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Go on."}]
    body = {"messages": talk_with("11:00") + more}
    told = app.test_client().post("/v1/explain", json=CHAT | body, headers=ANN).get_json()
    explain = ANN | {"x-slotproxy-explain": "1"}
    sent = app.test_client().post("/v1/chat/completions", json=CHAT | body, headers=explain)
    name = sent.headers["x-request-id"]
    one = get(app, f"{REQUESTS}/{name}", ADMIN).get_json()
    reason = one["decision"]["reason"]
    words = reason["difference"]
    assert reason["cause"] == "head"
    assert words == told["decision"]["reason"]["difference"]
    assert "11:00" in words["after"] and HEAD.rstrip().endswith(words["before"][-8:])
    assert len(words["before"] + words["after"]) <= cold.BEFORE + cold.AFTER
    assert reason["values"]["begin"] == words["position"] > 128
    assert "difference" not in json.loads(sent.headers["x-slotproxy-decision"])["reason"]
    finished = services_of(app).observer._finished
    assert [row.info.task for row in finished if row.asks_model] == [None, None]


def test_slot_says_who_had_it_before() -> None:
    app = app_with(ScriptedDriver(say("Hi"), msgspec.structs.replace(CAPS, slots=1)))
    theirs = ask(app, ADMIN)
    first = ask(app, messages=talk_with("1"))
    second = ask(app, messages=talk_with("2"))
    seen = get(app, f"{REQUESTS}/{second}").get_json()
    mine, other = seen["slot_before"]
    assert (mine["id"], mine["key"], mine["key_name"], mine["then"]) == (
        (first, "ann", "ann", "replaced")
    )
    assert mine["tokens"] == 10 and mine["began"] <= mine["ended"] + 0.01
    assert (other["id"], other["key"], other["tokens"]) == (None, None, None)
    assert other["began"] < mine["began"]
    whole = get(app, f"{REQUESTS}/{second}", ADMIN).get_json()["slot_before"]
    assert [one["id"] for one in whole] == [first, theirs]


def test_limits_are_a_step() -> None:
    keys = tuple(
        ApiKey(key.name, key.secret, options={"rpm_limit": "100"}) if key.name == "ann" else key
        for key in KEYS
    )
    app = make_app(ScriptedDriver(say("Hi")), file_keys=keys, admins=("root",))
    one = get(app, f"{REQUESTS}/{ask(app)}").get_json()
    assert [step["step"] for step in one["timeline"]] == ["prepare", "limits", *STEPS[1:]]


def test_waiting_request_has_its_place_and_time_in_line() -> None:
    app = app_with(Waiting(say("Hi"), msgspec.structs.replace(CAPS, slots=1)))

    def post() -> Any:
        return app.test_client().post("/v1/chat/completions", json=CHAT, headers=ANN)

    def running() -> list[Any]:
        return sorted(get(app).get_json()["running"], key=lambda one: str(one["state"]))

    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(post), pool.submit(post)]
        wait_until(
            lambda: (
                [(one["state"], one["place"]) for one in running()]
                == [("prefill", 0), ("queued", 1)]
            )
        )
        first, second = running()
        assert second["decision"] is None
        assert second["timeline"][0]["step"] == "queue" and second["timeline"][0]["seconds"] >= 0
        assert [step["step"] for step in first["timeline"]][:2] == ["prepare", "prefill"]
        time.sleep(0.5)
        for one in (second, first):
            ended = app.test_client().post(f"{REQUESTS}/{one['id']}/cancel", headers=ANN)
            assert ended.get_json()["cancelled"] == 1
        assert {answer.result(30).status_code for answer in answers} == {409}
    waited = get(app, f"{REQUESTS}/{second['id']}").get_json()
    steps = {step["step"]: step["seconds"] for step in waited["timeline"]}
    assert waited["outcome"] == "cancelled" and steps["queue"] == waited["queue_seconds"] > 0
    assert steps["other"] < steps["queue"]


def test_timeline_of_an_answer_that_runs_tools() -> None:
    first = Info(placed=0.5, first_token=0.7, last_token=1.0, queue_wait=0.2, outcome="tool_calls")
    first.steps = (("limits", 0.1), ("restore", 0.1))
    second = Info(placed=0.1, first_token=0.3)  # it writes
    info = Info(steps=(("search", 1.0), first, ("tools", 2.0), second))
    steps = [(step["step"], step["seconds"]) for step in ring.timeline(info, 5.0)]
    assert steps == [
        ("search", 1.0),
        ("prepare", 0.1),
        ("limits", 0.1),
        ("queue", 0.2),
        ("restore", 0.1),
        ("prefill", 0.2),
        ("decode", 0.3),
        ("tools", 2.0),
        ("prepare", 0.1),
        ("prefill", 0.2),
        ("decode", 0.7),
        ("other", 0.0),
    ]


def test_loading_is_a_step_of_a_model_that_was_not_loaded() -> None:
    placed: Any = SimpleNamespace(loads=2.0)
    info = Info(placed=0.5, first_token=4.0, last_token=5.0, evaluating=1.0, outcome="stop")
    info.placement = placed
    steps = {step["step"]: step["seconds"] for step in ring.timeline(info, 5.0)}
    assert steps == {"prepare": 0.5, "load": 2.5, "prefill": 1.0, "decode": 1.0, "other": 0.0}


def test_looking_at_running_requests_holds_no_lock() -> None:
    app = app_with(Waiting(say("Hi")))
    requests = services_of(app).requests
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(app.test_client().post, "/v1/chat/completions", json=CHAT, headers=ANN)
        wait_until(lambda: requests.running_records(bool))
        running = requests.running(bool)
        seen = next(running)
        assert requests._lock.acquire(blocking=False)  # while it is looked at
        requests._lock.release()
        app.test_client().post(f"{REQUESTS}/{seen.row.request}/cancel", headers=ANN)
        assert answer.result(30).status_code == 409


def test_every_round_lets_go_of_its_prompt() -> None:
    prompt: Any = SimpleNamespace(text="secret", media=())
    record = Record({})
    first, second = Info(task=prompt), Info(task=prompt)
    record.info = Info(steps=(first, ("tools", 1.0), second))
    services_of(app_with(ScriptedDriver(say("Hi")))).requests.add(record, 2.0)
    assert first.task is second.task is None
