"""Batches through the routes, on scripted backends."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flask.testing import FlaskClient

from proxy.batches import batch_run
from proxy.batches.batch_run import Ask, LineResponse
from proxy.config import fixed
from proxy.config.keys import ApiKey, Secret
from proxy.config.settings import RefereeConfig
from proxy.core.task import Embedded, Task
from proxy.core.usage import Usage
from proxy.errors import BackendFailed, UpstreamFault
from proxy.gateway import admission
from proxy.runtime import keep_alive
from proxy.runtime.cancel import Cancel
from proxy.scheduling.state import SlotRequest
from proxy.store.records import RequestBatch
from tests.fakes import (
    CAPS,
    ScriptedDriver,
    ScriptedRun,
    ScriptsInTurn,
    client,
    say,
    services_of,
    wait_until,
)
from tests.unit.web.account_client import KEYS, Http

CHAT = "/v1/chat/completions"
PEOPLE = tuple(ApiKey(name, Secret(f"sk-{name}")) for name in ("anna", "boris"))
ANNA, BORIS = ({"Authorization": f"Bearer sk-{name}"} for name in ("anna", "boris"))
OVER = ("completed", "failed", "expired", "cancelled")


def lines(count: int, **changes: Any) -> bytes:
    body = {"messages": [{"role": "user", "content": "Hi"}], **changes}
    made = (
        {"custom_id": f"l{i}", "method": "POST", "url": CHAT, "body": body} for i in range(count)
    )
    return b"\n".join(json.dumps(line).encode() for line in made)


def upload(to: FlaskClient, data: bytes, purpose: str = "batch", **headers: str) -> str:
    form = {"purpose": purpose, "file": (BytesIO(data), "lines.jsonl")}
    answer = to.post("/v1/files", data=form, headers=headers).json
    assert answer is not None
    return str(answer["id"])


def create(
    to: FlaskClient, data: bytes, headers: dict[str, str] | None = None, **fields: Any
) -> Any:
    body = {"input_file_id": upload(to, data, **headers or {}), "endpoint": CHAT}
    sent = {**body, "completion_window": "24h", **fields}
    answer = to.post("/v1/batches", json=sent, headers=headers)
    assert answer.status_code == 200, answer.json
    return answer.json


def ended(to: FlaskClient, key: str, headers: dict[str, str] | None = None) -> Any:
    batch: Any = {}

    def over() -> bool:
        nonlocal batch
        batch = to.get(f"/v1/batches/{key}", headers=headers).json
        return batch["status"] in OVER

    wait_until(over, 60)
    return batch


def cancelled(to: FlaskClient, key: str, headers: dict[str, str] | None = None) -> Any:
    to.post(f"/v1/batches/{key}/cancel", headers=headers)
    return ended(to, key, headers)


def read(to: FlaskClient, file: str | None, headers: dict[str, str] | None = None) -> list[Any]:
    if file is None:
        return []
    text = to.get(f"/v1/files/{file}/content", headers=headers).data
    return [json.loads(line) for line in text.splitlines()]


Serve = Callable[..., FlaskClient]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Starts gateways on one folder, whose threads end with the test."""
    monkeypatch.setattr(batch_run, "BEAT", 0.05)  # a cancelled batch is noticed by its heartbeat
    started: list[FlaskClient] = []

    def start(*drivers: ScriptedDriver, **settings: object) -> FlaskClient:
        started.append(client(*drivers, data=str(tmp_path), **settings))
        return started[-1]

    yield start
    for to in started:
        runner_of(to).close()


def runner_of(to: FlaskClient) -> Any:
    return services_of(to.application).batch_runner


def test_answers_are_lines_of_the_output_file(serve: Serve) -> None:
    to = serve(ScriptedDriver(say("Hello", usage=Usage(7, 3, 2))))
    made = create(to, lines(3), metadata={"a": "b"})
    assert made["expires_at"] - made["created_at"] == 24 * 3600
    done = ended(to, made["id"])
    assert (done["status"], done["metadata"]) == ("completed", {"a": "b"})
    assert done["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    usage = done["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (21, 9, 30)
    assert usage["input_tokens_details"] == {"cached_tokens": 6}
    results = read(to, done["output_file_id"])
    assert [line["custom_id"] for line in results] == ["l0", "l1", "l2"]
    for result in results:
        answer = result["response"]
        assert answer["body"]["choices"][0]["message"]["content"] == "Hello"
        assert result["id"] == f"batch_req_{answer['request_id']}"


def test_refused_lines_are_in_the_error_file(serve: Serve) -> None:
    to = serve()
    data = lines(2) + b"\n" + lines(3, temperature="hot").splitlines()[2]
    done = ended(to, create(to, data)["id"])
    assert done["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    (wrong,) = read(to, done["error_file_id"])
    assert (wrong["custom_id"], wrong["response"]["status_code"]) == ("l2", 400)
    assert wrong["response"]["body"]["error"]["param"] == "temperature"


def test_invalid_file_fails_with_the_number_of_the_line(serve: Serve) -> None:
    to = serve()
    done = ended(to, create(to, lines(2) + b"\nno json")["id"])
    assert done["status"] == "failed" and done["failed_at"] and done["output_file_id"] is None
    (error,) = done["errors"]["data"]
    assert (error["line"], error["code"]) == (3, "invalid_json_line")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({}, "input_file_id"),  # of another purpose
        ({"endpoint": "/v1/audio/speech"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "31d"}, "completion_window"),
        ({"input_file_id": ""}, "input_file_id"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"output_expires_after": {"seconds": 9000}}, "output_expires_after"),
    ],
)
def test_invalid_batch_is_refused(serve: Serve, changes: dict[str, Any], param: str) -> None:
    to = serve()
    file = upload(to, lines(1), "batch" if changes else "assistants")
    body = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
    answer = to.post("/v1/batches", json={**body, **changes})
    assert answer.status_code == 400 and answer.json is not None
    assert answer.json["error"]["param"] == param
    assert ("purpose batch" in answer.json["error"]["message"]) is not bool(changes)


def test_batches_of_others_are_not_found(serve: Serve) -> None:
    to = serve(file_keys=PEOPLE)
    made = create(to, lines(1), ANNA)
    for method, path in (("GET", ""), ("POST", "/cancel")):
        answer = to.open(f"/v1/batches/{made['id']}{path}", method=method, headers=BORIS)
        assert answer.status_code == 404
    assert to.get("/v1/batches", headers=BORIS).json["data"] == []
    assert ended(to, made["id"], ANNA)["status"] == "completed"


def test_batches_of_a_key_do_not_hold_up_those_of_others(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_run, "TURN", 0.0)

    class Slow(ScriptedDriver):
        def stream(self, task: Any, slot: int, caps: Any, cancel: Any) -> Any:
            run = super().stream(task, slot, caps, cancel)
            run._script = [lambda: cancel.wait(0.2), *say("Hello")]
            return run

    to = serve(Slow(), file_keys=PEOPLE)
    runner = services_of(to.application).batch_runner
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "wake", lambda: None)
        for _ in range(6):
            create(to, lines(500), ANNA)
    made = create(to, lines(1), BORIS)
    assert ended(to, made["id"], BORIS)["status"] == "completed"
    states = [batch["status"] for batch in to.get("/v1/batches", headers=ANNA).json["data"]]
    assert "completed" not in states


class Silent(ScriptedDriver):
    """Generates nothing for the tasks that it holds until their request is cancelled."""

    def __init__(self, slots: int = 2) -> None:
        super().__init__(caps=msgspec.structs.replace(CAPS, slots=slots))
        self.holds: Callable[[Task], bool] = lambda task: True

    def stream(self, task: Task, slot: int, caps: Any, cancel: Cancel) -> ScriptedRun:
        run = super().stream(task, slot, caps, cancel)
        if self.holds(task):
            run._script = [lambda: cancel.wait(60), cancel.check]
        return run


def test_line_gives_way_to_a_request_and_is_asked_again(serve: Serve) -> None:
    driver = Silent(slots=1)
    driver.holds = lambda task: len(driver.tasks) == 1
    to = serve(driver)
    made = create(to, lines(1))
    wait_until(lambda: bool(driver.tasks))
    began = time.monotonic()
    answer = to.post(CHAT, json={"messages": [{"role": "user", "content": "now"}]})
    assert answer.status_code == 200 and time.monotonic() - began < 40
    done = ended(to, made["id"])
    assert done["request_counts"] == {"total": 1, "completed": 1, "failed": 0}
    said = ["now" in str(task.prompt) for task in driver.tasks]
    assert said == [False, True, False]


def test_lines_do_not_fill_the_queue(serve: Serve) -> None:
    driver = Silent()
    to = serve(driver)
    made = create(to, lines(20))
    wait_until(lambda: bool(driver.tasks))
    scheduler = services_of(to.application).gateway.context.scheduler
    assert (scheduler.outstanding, scheduler.waiting) == (1, 0)
    cancelled(to, made["id"])


def test_batch_cancelled_before_its_file_was_checked_counts_its_lines(serve: Serve) -> None:
    to = serve()
    runner_of(to).close()  # nothing is checked yet
    made = create(to, lines(3))
    to.post(f"/v1/batches/{made['id']}/cancel")
    later = serve()
    runner_of(later).wake()
    done = ended(later, made["id"])
    assert (done["status"], done["in_progress_at"]) == ("cancelled", None)
    assert done["request_counts"] == {"total": 3, "completed": 0, "failed": 3}


def test_lines_under_way_are_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_run, "MOST", 2)
    driver = Silent(slots=16)
    to = serve(driver)
    made = create(to, lines(9))
    wait_until(lambda: len(driver.tasks) == 2)
    cancelled(to, made["id"])
    assert len(driver.tasks) == 2


def test_expired_batch_tells_which_lines_were_not_answered(serve: Serve) -> None:
    to = serve(Silent())
    done = ended(to, create(to, lines(3), completion_window="1s")["id"])
    assert (done["status"], done["expired_at"] is not None) == ("expired", True)
    codes = [line["error"]["code"] for line in read(to, done["error_file_id"])]
    assert codes == ["batch_expired"] * 3


def test_line_is_asked_again_after_a_fault(serve: Serve) -> None:
    driver = ScriptsInTurn(UpstreamFault("it failed"), UpstreamFault("it failed"))
    to = serve(driver)
    done = ended(to, create(to, lines(1))["id"])
    assert done["request_counts"]["completed"] == 1 and len(driver.tasks) == 3


def test_line_that_always_fails_has_that_result(serve: Serve) -> None:
    driver = ScriptsInTurn(*(BackendFailed("it failed") for _ in range(20)))
    to = serve(driver)
    done = ended(to, create(to, lines(1))["id"])
    (wrong,) = read(to, done["error_file_id"])
    assert wrong["response"]["status_code"] == 502
    assert len(driver.tasks) == batch_run.TRIES


def test_lines_wait_while_the_backend_is_down(serve: Serve) -> None:
    driver = ScriptedDriver(up=False)
    to = serve(driver)
    made = create(to, lines(2))
    wait_until(lambda: to.get(f"/v1/batches/{made['id']}").json["status"] == "in_progress")
    driver.up = True
    services_of(to.application).gateway.registry.backends["b0"].wake.set()
    assert ended(to, made["id"])["request_counts"]["completed"] == 2


def test_next_process_continues(serve: Serve) -> None:
    driver = Silent()
    to = serve(driver)
    made = create(to, lines(4))
    wait_until(lambda: bool(driver.tasks))
    runner_of(to).close()
    stored = to.get(f"/v1/batches/{made['id']}").json
    assert stored is not None and stored["status"] == "in_progress"
    later = serve()
    runner_of(later).wake()
    done = ended(later, made["id"])
    assert done["request_counts"] == {"total": 4, "completed": 4, "failed": 0}


def test_batch_is_continued_after_a_defect(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keep_alive, "PAUSE", 0.001)
    begun = batch_run.BatchRun.run
    calls = []

    def run(self: batch_run.BatchRun) -> None:
        calls.append(self)
        if len(calls) < 3:
            raise RuntimeError("nobody foresaw it")
        begun(self)

    monkeypatch.setattr(batch_run.BatchRun, "run", run)
    to = serve()
    assert ended(to, create(to, lines(2))["id"])["status"] == "completed"
    assert caplog.text.count("RuntimeError: nobody foresaw it") == 1


def test_deleted_input_file_fails_the_batch(serve: Serve) -> None:
    driver = Silent()
    to = serve(driver)
    made = create(to, lines(4))
    wait_until(lambda: bool(driver.tasks))
    runner_of(to).close()
    to.delete(f"/v1/files/{made['input_file_id']}")
    later = serve()
    runner_of(later).wake()
    done = ended(later, made["id"])
    assert (done["status"], done["errors"]["data"][0]["code"]) == ("failed", "input_file_deleted")


def test_all_data_of_a_key_include_its_batches(serve: Serve) -> None:
    to = serve(Silent())
    made = create(to, lines(2))
    exported = to.get("/v1/data").json
    assert exported is not None and [batch["id"] for batch in exported["batches"]] == [made["id"]]
    gone = to.delete("/v1/data").json
    assert gone is not None and gone["deleted"]["batches"] == 1
    assert to.get(f"/v1/batches/{made['id']}").status_code == 404


def test_list_has_pages(serve: Serve) -> None:
    to = serve()
    names = [create(to, lines(1))["id"] for _ in range(3)]
    first = to.get("/v1/batches?limit=2").json
    assert first is not None and first["has_more"]
    assert [batch["id"] for batch in first["data"]] == names[:0:-1]


def asked_of(to: FlaskClient, *answers: LineResponse) -> list[Any]:
    """Lets the runner get these answers, and then others. Returns the bodies that it sends."""
    runner = runner_of(to)
    bodies: list[Any] = []
    left = list(answers)

    def ask(batch: RequestBatch, body: bytes, cancel: Cancel) -> LineResponse:
        bodies.append(json.loads(body))
        return left.pop(0) if left else LineResponse(200, "r", b"{}")

    runner.ask = ask
    return bodies


def test_runner_ends_after_the_lines_of_a_deleted_batch(serve: Serve) -> None:
    """They use services that are closed after it."""
    to = serve()
    begun, ended = threading.Event(), threading.Event()

    def ask(batch: RequestBatch, body: bytes, cancel: Cancel) -> LineResponse:
        begun.set()
        cancel.wait(30)
        time.sleep(0.2)  # an answer takes a moment to end
        ended.set()
        return LineResponse(200, "r", b"{}")

    runner_of(to).ask = ask
    create(to, lines(1))
    assert begun.wait(30)
    to.delete("/v1/data")
    time.sleep(batch_run.BEAT)  # the next heartbeat sees it
    runner_of(to).close()
    assert ended.is_set()


def test_line_is_asked_when_its_refusal_says_and_a_wrong_one_costs_no_tokens(serve: Serve) -> None:
    to = serve()
    times: list[float] = []
    answers = [
        LineResponse(429, "r", b"{}", 1.0, "rate_limit_exceeded"),
        LineResponse(400, "r", b"{}", usage=Usage(7, 3)),
        LineResponse(200, "r", b"{}", usage=Usage(5, 1)),
    ]

    def ask(batch: RequestBatch, body: bytes, cancel: Cancel) -> LineResponse:
        times.append(time.time())
        return answers[len(times) - 1]

    runner_of(to).ask = ask
    done = ended(to, create(to, lines(2))["id"])
    assert done["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    assert times[2] - times[0] >= 1.0
    assert done["usage"]["total_tokens"] == 6


@pytest.mark.parametrize("slots", [1, 2])
def test_choices_of_a_line_need_one_idle_slot_at_a_time(serve: Serve, slots: int) -> None:
    driver = ScriptedDriver(caps=msgspec.structs.replace(CAPS, slots=slots))
    to = serve(driver)
    done = ended(to, create(to, lines(2, n=3))["id"])
    assert done["request_counts"]["completed"] == 2 and len(driver.tasks) == 6


class Vectors(ScriptedDriver):
    def embed(self, inputs: Any, caps: Any, cancel: Any) -> Embedded:
        self.tasks.append(inputs)
        cancel.wait(0.05)  # so that parts that may run side by side do
        return Embedded(tuple((1.0, 0.0) for _ in inputs), len(inputs))


def test_parts_of_a_line_need_one_idle_slot_at_a_time(serve: Serve) -> None:
    driver = Vectors(caps=msgspec.structs.replace(CAPS, slots=2, queues=True, embeddings=True))
    to = serve(driver)
    line = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings"}
    data = json.dumps({**line, "body": {"input": ["t"] * 100}}).encode()
    done = ended(to, create(to, data, endpoint="/v1/embeddings")["id"])
    assert done["request_counts"]["completed"] == 1 and len(driver.tasks) == 4


def test_line_that_made_way_is_asked_after_the_others(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_run, "FIRST_AGAIN", 0.01)
    to = serve()
    bodies = asked_of(
        to, LineResponse(499, "r", b"{}"), LineResponse(429, "r", b"{}", None, "no_idle_slot")
    )
    texts = [lines(3, user=name).splitlines()[place] for place, name in enumerate("abc")]
    done = ended(to, create(to, b"\n".join(texts))["id"])
    assert done["request_counts"]["completed"] == 3 and len(bodies) == 5
    users = [body["user"] for body in bodies]
    assert sorted(users[:3]) == ["a", "b", "c"] and sorted(users[3:]) == sorted(users[:2])


REFUSED = b'{"error": {"code": "invalid_api_key"}}'


@pytest.mark.parametrize(
    "response",
    [
        LineResponse(429, "r", b"{}", None, "no_idle_slot", has_effects=True),  # of its tools
        LineResponse(401, "r", REFUSED),  # another server's, that refuses our key
    ],
)
def test_line_that_was_answered_for_good_is_not_asked_again(
    serve: Serve, response: LineResponse
) -> None:
    to = serve()
    bodies = asked_of(to, response)
    done = ended(to, create(to, lines(3))["id"])
    assert done["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert len(bodies) == 3


def test_line_without_an_idle_slot_costs_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PATIENCE", "FIRST_LOOK"):
        monkeypatch.setattr(admission, name, 0.001)
    monkeypatch.setattr(batch_run, "LAST_AGAIN", 0.001)
    to = serve(
        ScriptedDriver(caps=msgspec.structs.replace(CAPS, slots=4)),
        file_keys=KEYS,
        admins=("ops",),
        capture="all",
    )
    services = services_of(to.application)
    assert services.captures is not None
    other = services.gateway.scheduler.acquire(SlotRequest(model="scripted"), Cancel())
    http = Http(to.application)
    issued = http.make(rpm_limit=30)
    headers = {"Authorization": f"Bearer {issued['key']}"}
    tries: list[str] = []
    runner = runner_of(to)
    ask: Ask = runner.ask

    def counted(batch: RequestBatch, body: bytes, cancel: Cancel) -> LineResponse:
        answer = ask(batch, body, cancel)
        tries.append(answer.outcome)
        return answer

    runner.ask = counted
    made = create(to, lines(1), headers)
    wait_until(lambda: len(tries) > 2)
    assert tries[:2] == ["no_idle_slot"] * 2
    cancelled(to, made["id"], headers)
    other.release()
    with http.chat(issued["key"]) as answer:
        assert answer.headers["x-ratelimit-remaining-requests"] == "29"
    statuses = {capture["status"] for capture in services.captures.find(9, key=issued["key_id"])}
    assert 200 in statuses and 429 not in statuses, "a line that is asked again is not captured"


def test_lines_do_not_count_among_the_requests_of_a_key_that_run(serve: Serve) -> None:
    driver = Silent(slots=4)
    driver.holds = lambda task: "Count" in str(task.prompt)
    to = serve(driver, file_keys=KEYS, admins=("ops",))
    http = Http(to.application)
    key = http.make(max_parallel_requests=1)["key"]
    headers = {"Authorization": f"Bearer {key}"}
    made = create(to, lines(2, messages=[{"role": "user", "content": "Count"}]), headers)
    wait_until(lambda: len(driver.tasks) == 2)
    assert http.chat(key).status_code == 200
    cancelled(to, made["id"], headers)


def test_batch_ends_when_its_key_is_refused(serve: Serve) -> None:
    to = serve()
    refusal = b'{"error": {"code": "invalid_api_key", "message": "it was deleted"}}'
    asked_of(to, *(LineResponse(401, "r", refusal, None, "invalid_api_key") for _ in range(3)))
    done = ended(to, create(to, lines(3))["id"])
    (first, *_) = read(to, done["error_file_id"])
    assert done["request_counts"]["failed"] == 3
    assert first["error"] == {"code": "invalid_api_key", "message": "it was deleted"}


def files_of(to: FlaskClient) -> list[Any]:
    answer = to.get("/v1/files").json
    assert answer is not None
    return list(answer["data"])


def test_batch_ends_where_the_bytes_of_its_key_do(serve: Serve) -> None:
    whole = RefereeConfig(loops="off")
    to = serve(ScriptedDriver(say("x" * 20_000)), quota_bytes=70_000, referee=whole)
    done = ended(to, create(to, lines(30))["id"])
    (error,) = done["errors"]["data"]
    assert (done["status"], error["code"]) == ("failed", "quota_exceeded")
    assert "--quota-bytes" in error["message"]
    assert 1 <= len(read(to, done["output_file_id"])) == done["request_counts"]["completed"] <= 3
    assert sum(file["bytes"] for file in files_of(to)) <= 70_000


def test_batch_without_room_for_its_file_asks_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = ScriptedDriver()
    monkeypatch.setattr(fixed, "QUOTA_FILES", 1)
    to = serve(driver)
    done = ended(to, create(to, lines(3))["id"])
    (error,) = done["errors"]["data"]
    assert (done["status"], error["code"]) == ("failed", "quota_exceeded")
    assert "at most 1 files" in error["message"] and not driver.tasks
    assert [file["purpose"] for file in files_of(to)] == ["batch"]
