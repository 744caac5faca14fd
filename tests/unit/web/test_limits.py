"""Limits of keys, users and teams, over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy.accounts.limiting.allowance import LimitService, limit_statuses
from proxy.accounts.limiting.limiter import LocalLimiter, clock
from proxy.accounts.limits import Limited, Limits, Window
from proxy.apis.openai import chat
from proxy.core.task import Embedded
from proxy.core.usage import Usage
from proxy.errors import BadRequest, Cancelled, GatewayError, LimitsUnavailable
from proxy.gateway import Caller, Embedder
from proxy.runtime.cancel import Cancel
from proxy.web.services import EXTENSION
from tests.fakes import CAPS, ScriptedDriver, make_app, say, services_of, wait_until
from tests.unit.web.account_client import CHAT, Http, keyed
from tests.unit.web.test_context_edits import EDIT, body, edits
from tests.unit.web.test_pages_chat import Held

PROMPT = 147  # tokens of CHAT, to the scripted driver


@pytest.fixture
def driver() -> ScriptedDriver:
    return ScriptedDriver(say("Hel", "lo", usage=Usage(7, 3, 2)))


@pytest.fixture
def http(driver: ScriptedDriver, tmp_path: Path) -> Http:
    return keyed(driver, tmp_path)


def _error(answer: Any, status: int = 429) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json["error"]


def test_requests_beyond_the_limit_are_refused(http: Http) -> None:
    key = http.make(rpm_limit=2)["key"]
    first = http.chat(key)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-reset-requests"] == "30s"
    assert http.chat(key).headers["x-ratelimit-remaining-requests"] == "0"
    refused = http.chat(key)
    error = _error(refused)
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert "2 requests a minute" in error["message"]
    assert 20 <= int(refused.headers["Retry-After"]) <= 30
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"


def test_choices_that_never_began_give_back_what_they_took() -> None:
    """In idle slots, the choices of a request run one after the other; its client leaves at the
    first."""
    limited = Limited("key k", Limits(windows=(Window("tokens", "hour", 100_000),)))
    service = LimitService(LocalLimiter())
    caller = Caller(key="k", idle=True, allowance=service.allowance((limited,), idle=True))
    request = chat.parse({**CHAT, "n": 2, "max_tokens": 5000})
    answer = services_of(make_app(Held())).gateway.answer(request, Cancel(), caller)
    answer.prime()
    assert limit_statuses(service, [limited], clock())[0].used > 4000
    answer.close()
    assert limit_statuses(service, [limited], clock())[0].used < 1000


COUNTING: dict[str, dict[str, Any]] = {
    "/tokenize": {"content": "Hi"},
    "/detokenize": {"tokens": [72, 105]},
    "/apply-template": CHAT,
    "/v1/chat/completions/input_tokens": CHAT,
    "/v1/messages/count_tokens": {**CHAT, "max_tokens": 9},
    "/v1/responses/input_tokens": {"model": "scripted", "input": "Hi"},
}


@pytest.mark.parametrize("path", [*COUNTING, "GLM's /tokenize"])
def test_requests_that_count_tokens_are_requests(http: Http, path: str) -> None:
    body = COUNTING.get(path, {"prompt": "Hi"})
    path = path.removeprefix("GLM's ")
    made = http.make(rpm_limit=3, limits={"tokens": {"day": 10_000}, "requests": {"minute": 3}})
    key = made["key"]
    answers = [http.post(path, key, **body) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429], answers[0].text
    assert answers[2].headers["x-ratelimit-remaining-requests"] == "0"
    assert answers[2].headers["x-ratelimit-remaining-tokens"] == "10000"


def test_keys_without_limits_have_no_limit_headers(http: Http) -> None:
    answer = http.chat(http.make()["key"])
    assert not [name for name in dict(answer.headers) if "ratelimit" in name.lower()]


def test_messages_have_headers_in_anthropics_form(http: Http) -> None:
    key = http.make(rpm_limit=5, tpm_limit=5000)["key"]
    headers = http.post("/v1/messages", key, **CHAT, max_tokens=9).headers
    assert headers["anthropic-ratelimit-requests-limit"] == "5"
    assert headers["anthropic-ratelimit-requests-remaining"] == "4"
    assert headers["anthropic-ratelimit-requests-reset"].endswith("Z")
    assert headers["anthropic-ratelimit-tokens-limit"] == "5000"
    assert "x-ratelimit-limit-requests" not in headers


def test_streams_are_refused_before_they_begin(http: Http) -> None:
    key = http.make(rpm_limit=1)["key"]
    streamed = http.chat(key, stream=True)
    assert streamed.headers["x-ratelimit-remaining-requests"] == "0"
    assert b"[DONE]" in streamed.data
    assert http.chat(key, stream=True).status_code == 429


def test_the_strictest_of_key_user_and_team_wins(http: Http) -> None:
    http.admin("/team/new", team_id="t", rpm_limit=1)
    http.admin("/user/new", user_id="u", auto_create_key=False, rpm_limit=50)
    key = http.make(team_id="t", user_id="u", rpm_limit=10)["key"]
    other = http.make(team_id="t")["key"]
    assert http.chat(key).headers["x-ratelimit-limit-requests"] == "1"
    assert "the team of this API key" in _error(http.chat(other))["message"]


def test_keys_of_a_team_do_not_use_up_each_others_own_limits(http: Http) -> None:
    keys = [http.make(rpm_limit=1)["key"] for _ in range(2)]
    assert [http.chat(key).status_code for key in keys] == [200, 200]
    assert [http.chat(key).status_code for key in keys] == [429, 429]


def test_a_changed_limit_counts_at_once(http: Http) -> None:
    made = http.make(rpm_limit=1)
    assert [http.chat(made["key"]).status_code for _ in range(2)] == [200, 429]
    http.admin("/key/update", key=made["key_id"], rpm_limit=3)
    assert [http.chat(made["key"]).status_code for _ in range(3)] == [200, 200, 429]
    http.admin("/key/update", key=made["key_id"], rpm_limit=-1)
    assert http.chat(made["key"]).status_code == 200


def test_tokens_are_reserved_and_settled(http: Http) -> None:
    key = http.make(limits={"tokens": {"hour": 1000}})["key"]
    answer = http.chat(key, max_tokens=400)
    assert answer.headers["x-ratelimit-remaining-tokens"] == str(600 - PROMPT)
    answer = http.chat(key, max_tokens=1)
    left = 1000 - 10 - PROMPT - 1  # the first answer used 10
    assert left <= int(answer.headers["x-ratelimit-remaining-tokens"]) <= left + 1


def test_a_request_is_refused_if_its_tokens_are_not_there(http: Http) -> None:
    key = http.make(limits={"tokens": {"month": 300}})["key"]
    while (answer := http.chat(key, max_tokens=140)).status_code == 200:
        pass
    assert "300 tokens a month" in _error(answer)["message"]


def test_an_answer_without_a_bound_takes_what_is_left(http: Http, driver: ScriptedDriver) -> None:
    key = http.make(limits={"tokens": {"hour": 500}})["key"]
    seen: list[Any] = []

    def once() -> None:
        driver.script = say("x")
        seen.append(http.chat(key))

    driver.script = [once, *say("Hel", "lo")]
    assert http.chat(key).status_code == 200
    assert seen[0].status_code == 429
    assert http.chat(key).status_code == 200  # the rest was given back


def test_a_prompt_larger_than_the_limit_is_never_accepted(http: Http) -> None:
    key = http.make(limits={"prompt_tokens": {"day": 5}})["key"]
    refused = http.chat(key)
    assert "5 prompt tokens a day" in _error(refused)["message"]
    assert "Retry-After" not in refused.headers
    assert refused.headers["x-should-retry"] == "false"


def test_largest_prompt_and_answer(http: Http, driver: ScriptedDriver) -> None:
    key = http.make(max_prompt_tokens=3)["key"]
    error = _error(http.chat(key), 400)
    assert error["code"] == "prompt_too_large"
    key = http.make(max_completion_tokens=5)["key"]
    answer = http.chat(key, max_tokens=50)
    assert answer.headers["x-slotproxy-warning"].startswith("max_tokens is 5")
    assert driver.tasks[-1].max_tokens == 5
    assert http.chat(key).status_code == 200
    assert driver.tasks[-1].max_tokens == 5


@pytest.fixture
def held(driver: ScriptedDriver) -> Iterator[threading.Event]:
    """The driver's answers wait for this event."""
    event = threading.Event()
    driver.script = [lambda: event.wait(60), *say("Hel", "lo")]
    yield event
    event.set()


def _begun(driver: ScriptedDriver, count: int) -> None:
    wait_until(lambda: len(driver.runs) >= count)


def test_parallel_requests_are_bounded(
    http: Http, driver: ScriptedDriver, held: threading.Event
) -> None:
    key = http.make(max_parallel_requests=1)["key"]
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(http.chat(key)))
    thread.start()
    _begun(driver, 1)
    assert "1 request running" in _error(http.chat(key))["message"]
    held.set()
    thread.join(60)
    assert answers[0].status_code == http.chat(key).status_code == 200


def test_choices_of_a_request_share_its_place_in_the_queue(
    driver: ScriptedDriver, tmp_path: Path
) -> None:
    driver.caps = msgspec.structs.replace(driver.caps, slots=1)
    http = keyed(driver, tmp_path)
    key = http.make(max_queued_requests=1)["key"]
    assert http.chat(key, n=3).status_code == 200
    several = http.post("/v1/completions", key, model="scripted", prompt=["a", "b", "c"])
    assert several.status_code == 200
    assert http.chat(key).status_code == 200


def test_no_more_is_reserved_than_the_context_has_room_for(http: Http) -> None:
    key = http.make(tpm_limit=5000)["key"]
    for _ in range(2):
        assert http.chat(key, max_tokens=32_000).status_code == 200


def test_prompt_far_below_the_limit_is_not_tokenized(
    http: Http, driver: ScriptedDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "tokenize", lambda *_, **__: [1, 2])  # and the token that begins it
    for limit, prompt in ((100_000, PROMPT), (1000, 3)):
        key = http.make(limits={"tokens": {"hour": limit}})["key"]
        answer = http.chat(key, max_tokens=10)
        assert answer.headers["x-ratelimit-remaining-tokens"] == str(limit - prompt - 10)


def test_embeddings_count_as_requests_with_their_tokens(http: Http) -> None:
    key = http.make(rpm_limit=1, tpm_limit=100)["key"]
    http.post("/v1/embeddings", key, model="scripted", input="Hi")
    refused = http.post("/v1/embeddings", key, model="scripted", input="Hi")
    assert refused.status_code == 429
    assert refused.headers["x-ratelimit-limit-tokens"] == "100"


class Vectors(ScriptedDriver):
    """Embeds one input in a call, and raises `error` for the second one, which it gets behind the
    first."""

    def __init__(self, error: GatewayError) -> None:
        super().__init__(caps=CAPS)  # an old server's: one text at a time
        self.error = error

    def embed(self, inputs: Any, caps: Any, cancel: Any) -> Embedded:
        if inputs[0] == "second":
            raise self.error
        return Embedded(((1.0, 0.0),), 1)


@pytest.mark.parametrize(
    ("error", "used"),
    [(Cancelled("gone"), 5), (BadRequest("too long"), 5), (LimitsUnavailable("any"), 0)],
)
def test_embeddings_that_the_client_ends_are_charged(
    error: GatewayError, used: int, tmp_path: Path
) -> None:
    http = keyed(Vectors(error), tmp_path)
    key = http.make(limits={"tokens": {"hour": 500}})["key"]
    failed = http.post("/v1/embeddings", key, model="scripted", input=["first", "second"])
    assert failed.status_code == error.status, failed.text
    answer = http.post("/v1/embeddings", key, model="scripted", input=["x"])
    left = int(answer.headers["x-ratelimit-remaining-tokens"])
    assert 500 - left - 1 == used


def test_a_failed_answer_gives_its_tokens_back(http: Http, driver: ScriptedDriver) -> None:
    key = http.make(limits={"tokens": {"hour": 500}}, max_parallel_requests=1)["key"]
    driver.script = [LimitsUnavailable("any")]
    assert http.chat(key).status_code == 503
    driver.script = say("x")
    answer = http.chat(key, max_tokens=1)
    assert answer.headers["x-ratelimit-remaining-tokens"] == str(500 - 7 - PROMPT - 1)


def test_limits_of_a_model_count_its_requests_only(tmp_path: Path) -> None:
    driver = ScriptedDriver(say("Hi", usage=Usage(7, 3, 2)))
    http = keyed(driver, tmp_path, alias=("other", "scripted"))
    key = http.make(model_rpm_limit={"oth*": 1, "absent": 0}, rpm_limit=60)["key"]
    # Both names mean one model, so the limit cannot be evaded by asking for the other.
    first = http.post("/v1/chat/completions", key, **{**CHAT, "model": "scripted"})
    assert first.headers["x-ratelimit-limit-requests"] == "1"
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    refused = http.post("/v1/chat/completions", key, **{**CHAT, "model": "other"})
    error = _error(refused)
    assert "1 request a minute of the model 'oth*'" in error["message"]
    assert 50 <= int(refused.headers["Retry-After"]) <= 60
    free = http.make(model_rpm_limit={"absent": 0}, model_tpm_limit={"absent": 0})["key"]
    assert http.chat(free).status_code == 200


def test_tokens_of_a_model_are_limited(http: Http) -> None:
    key = http.make(model_tpm_limit={"scripted": PROMPT + 3}, rpm_limit=9)["key"]
    answer = http.chat(key, max_tokens=3)
    assert answer.headers["x-ratelimit-limit-tokens"] == str(PROMPT + 3)
    assert _error(http.chat(key, max_tokens=400))


def test_limits_of_models_hold_at_each_level(http: Http) -> None:
    http.admin("/team/new", team_id="lab", model_rpm_limit={"*": 1})
    http.admin("/user/new", user_id="carol", auto_create_key=False, model_rpm_limit={"*": 2})
    keys = [http.make(team_id="lab")["key"], http.make(user_id="carol")["key"]]
    assert [http.chat(key).status_code for key in keys * 3] == [200, 200, 429, 200, 429, 429]


@pytest.mark.parametrize(
    ("limits", "what"),
    [
        ({"rpm_limit": 1}, "1 request a minute"),
        ({"model_rpm_limit": {"meaning": 1}, "rpm_limit": 60}, "of the model 'meaning'"),
    ],
)
def test_limits_count_once_what_the_local_embedding_model_answers_under_other_names(
    http: Http, limits: dict[str, Any], what: str
) -> None:
    app = make_app(Vectors(Cancelled("gone")), alias=("meaning", "scripted"))
    local = services_of(app).embedder
    services = services_of(http.app)
    http.app.extensions[EXTENSION] = msgspec.structs.replace(services, local_embedder=local)
    key = http.make(**limits)["key"]
    answers = [http.post("/v1/embeddings", key, model="ada", input="Hi") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429], answers[0].text
    assert what in answers[1].json["error"]["message"]


def test_limits_of_models_count_embeddings_under_any_name(
    http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = "scripted", Embedded(((1.0,),), 3)
    monkeypatch.setattr(Embedder, "embed", lambda *args, **more: vectors)
    key = http.make(model_rpm_limit={"scripted": 1})["key"]
    statuses = [
        http.post("/v1/embeddings", key, model=name, input="Hi").status_code
        for name in ("anything", "scripted", "anything")
    ]
    assert statuses == [200, 429, 429]


def test_context_edits_are_not_counted_beyond_the_limits(
    http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[object] = []
    count = services_of(http.app).gateway.count

    def counting(gateway: object, *args: Any, **more: Any) -> int:
        counted.append(gateway)
        return count(*args, **more)

    monkeypatch.setattr("proxy.gateway.gateway.Gateway.count", counting)
    key = http.make(rpm_limit=2, max_budget=5)["key"]
    edited = body(**edits(EDIT))
    assert [http.post("/v1/messages", key, **edited).status_code for _ in range(2)] == [200, 200]
    before = len(counted)
    assert before
    assert http.post("/v1/messages", key, **edited).status_code == 429
    assert len(counted) == before
