"""What routes report about backends, also right after the start."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from proxy.app.compose import backend_of
from proxy.backends.driver import Capabilities, OnCapabilities, ignore
from proxy.backends.pools import Backend
from proxy.config import ApiKey, BackendConfig, Secret, Settings
from proxy.gateway import Info
from proxy.prompting.profile.verify import verdict
from proxy.web.observability import Record
from tests.apps import app_on
from tests.fakes import ScriptedDriver, services_of, wait_until

OUTLINE = Capabilities(
    dialect="llama-server", slots=4, n_ctx=512, queues=True, models=("tiny",), template="{{ x }}"
)


HI = {"messages": [{"role": "user", "content": "Hi"}]}


class Slow(ScriptedDriver):
    """Answers the first probes once `speak` is set, and generates its token once `write` is set."""

    status = ""

    def __init__(self) -> None:
        super().__init__(caps=OUTLINE)
        self.speak = threading.Event()
        self.write = threading.Event()

    def probe(self, deadline: float, learned: OnCapabilities = ignore) -> Capabilities:
        self.speak.wait(60)
        learned(OUTLINE)
        self.write.wait(60)
        return super().probe(deadline)


@pytest.fixture
def driver() -> Iterator[Slow]:
    slow = Slow()
    yield slow
    slow.speak.set()
    slow.write.set()


def visitor(driver: Slow, **settings: float) -> FlaskClient:
    made = Settings(local_embeddings=False, **settings)  # type: ignore[arg-type]
    return app_on([Backend("b0", "test://0", driver)], made).test_client()


def shown(visitor: FlaskClient) -> dict[str, object]:
    answer = visitor.get("/v1/backends")
    assert answer.json is not None
    backend: dict[str, object] = answer.json["data"][0]
    return backend


def test_unprobed_backend_shows_no_capabilities(driver: Slow) -> None:
    backend = shown(visitor(driver))
    assert backend["state"] == "unknown"
    assert (backend["found"], backend["slots"], backend["n_ctx"]) == (None, None, None)


def test_probed_backend_shows_its_properties_before_its_first_token(driver: Slow) -> None:
    to = visitor(driver)
    driver.speak.set()
    registry = services_of(to.application).gateway.registry
    # The list of models follows the properties, in the thread of the health check.
    wait_until(lambda: [model["id"] for model in to.get("/v1/models").json["data"]] == ["tiny"])
    backend = shown(to)
    assert backend["state"] == "unknown"
    assert (backend["model"], backend["slots"], backend["n_ctx"]) == ("tiny", 4, 512)
    probed = backend["found"]
    assert isinstance(probed, dict)
    assert (probed["dialect"], probed["slots"]) == ("llama-server", 4)
    props = to.get("/props").json
    assert props is not None
    assert (props["total_slots"], props["model_alias"]) == (4, "tiny")
    driver.write.set()
    wait_until(lambda: registry.ready)
    assert shown(to)["state"] == "up"


def test_profile_of_a_template_and_kinds_of_the_servers_own_route_are_shown(driver: Slow) -> None:
    to = visitor(driver)
    assert shown(to)["profile"] == {}
    driver.speak.set()
    driver.write.set()
    registry = services_of(to.application).gateway.registry
    wait_until(lambda: registry.ready)
    profile = shown(to)["profile"]
    assert isinstance(profile, dict)
    assert profile["system messages"]
    assert shown(to)["server_prompts"] == []
    registry.backends["b0"].verdict = verdict({"tools": "differs", "plain": "same"})
    assert shown(to)["server_prompts"] == ["tools"]
    assert services_of(to.application).gateway.profile("tiny")[-1] == (
        "server's own route",
        "tools",
    )


def test_early_request_waits_for_the_first_backend(driver: Slow) -> None:
    to = visitor(driver, wait_for_backend=60.0)
    with ThreadPoolExecutor(1) as threads:
        waits = threads.submit(to.post, "/v1/chat/completions", json=HI)
        gateway = services_of(to.application).gateway
        wait_until(lambda: gateway._early._value < 256)
        driver.speak.set()
        wait_until(lambda: gateway.scheduler.waiting == 1 or waits.done())
        assert not waits.done(), waits.result().text
        driver.write.set()
        answer = waits.result(60)
    assert answer.status_code == 200, answer.text
    assert answer.json is not None
    assert answer.json["model"] == "tiny"


def test_early_request_while_the_model_of_the_first_backend_becomes_known(driver: Slow) -> None:
    """It waits until the scheduler knows the model, too: the health check stands still between."""
    to = visitor(driver, wait_for_backend=60.0)
    gateway = services_of(to.application).gateway
    scheduler = gateway.scheduler
    update, posted = scheduler.update, threading.Event()
    with ThreadPoolExecutor(1) as threads:
        answers: list[Future[TestResponse]] = []

        def slow_update(*args: Any, **fields: Any) -> None:
            if not answers:
                answers.append(threads.submit(to.post, "/v1/chat/completions", json=HI))
                wait_until(
                    lambda: gateway._early._value < 256 or scheduler.waiting or answers[0].done()
                )
                posted.set()
            update(*args, **fields)

        scheduler.update = slow_update  # type: ignore[method-assign]  # of this gateway alone
        driver.speak.set()
        assert posted.wait(60)
        driver.write.set()
        answer = answers[0].result(60)
    assert answer.status_code == 200, answer.text


def test_early_request_gets_503_when_no_backend_answers(
    driver: Slow,
) -> None:
    to = visitor(driver, wait_for_backend=0.2)
    answer = to.post("/v1/chat/completions", json=HI)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]


def test_answer_names_its_backend_as_the_caller_may_see_it() -> None:
    keys = (ApiKey("admin", Secret("sk-admin")), ApiKey("ann", Secret("sk-ann")))
    settings = Settings(file_keys=keys, admins=("admin",), data="")
    backends = [Backend("127.0.0.1:8080", "http://127.0.0.1:8080", ScriptedDriver())]
    client = app_on(backends, settings).test_client()
    wait_until(lambda: client.get("/readyz").status_code == 200)
    body = {"model": "x", "messages": [{"role": "user", "content": "hi"}]}
    names = {}
    for key in keys:
        headers = {"Authorization": f"Bearer {key.secret}"}
        answer = client.post("/v1/chat/completions", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        names[key.name] = answer.headers["x-slotproxy-backend"]
        assert "x-slotproxy-fallback" not in answer.headers
    assert names == {"admin": "127.0.0.1:8080", "ann": "backend-1"}


def test_headers_name_the_backends_that_were_passed_over() -> None:
    record = Record({})
    record.shown = str
    record.info = Info(backend="über\n", passed=(("gpu-1", "down"), ("gpu-2", "busy")))
    headers = dict(record.headers())
    assert headers["x-slotproxy-backend"] == "\\xfcber\\n"
    assert headers["x-slotproxy-fallback"] == "gpu-1 down, gpu-2 busy"


NOBODY = "http://127.0.0.1:9"


@pytest.mark.parametrize(("model", "stream"), [("", False), ("mine", True)])
def test_a_backend_that_was_never_there_is_named_with_the_reason(stream: bool, model: str) -> None:
    """Without the whole wait: a wrong address is likelier than a restart."""
    keys = (ApiKey("admin", Secret("sk-admin")), ApiKey("ann", Secret("sk-ann")))
    config = BackendConfig(url=NOBODY, model=model)
    settings = Settings(
        llama_api=(),
        backend=(config,),
        file_keys=keys,
        admins=("admin",),
        data="",
        local_embeddings=False,
        wait_for_backend=600.0,
    )
    (named,) = settings.backends
    client = app_on([backend_of(settings, named)], settings).test_client()

    def message(key: ApiKey) -> str:
        headers = {"Authorization": f"Bearer {key.secret}"}
        http = client.application.test_client()
        answer = http.post("/v1/chat/completions", json={**HI, "stream": stream}, headers=headers)
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "5"
        assert answer.json is not None
        return str(answer.json["error"]["message"])

    with ThreadPoolExecutor(len(keys)) as threads:
        messages = list(threads.map(message, keys))
    reason = "is not responding: connection refused"
    assert dict(zip((key.name for key in keys), messages, strict=True)) == {
        "admin": f"the backend 127.0.0.1:9 {reason}; slotproxy doctor says what to do",
        "ann": f"the backend backend-1 {reason}",
    }


@pytest.mark.parametrize("status", ["", "unloaded", "loading", "failed", "loaded"])
def test_only_a_loaded_model_has_slots(driver: Slow, status: str) -> None:
    driver.speak.set()
    driver.write.set()
    driver.status = status
    to = visitor(driver)
    wait_until(lambda: shown(to)["state"] == "up")
    slots = to.get("/v1/slots").json
    assert slots is not None
    has_slots = status in ("", "loaded")
    assert shown(to)["slots"] == (4 if has_slots else None)
    assert len(slots["backends"][0]["slots"]) == (4 if has_slots else 0)
