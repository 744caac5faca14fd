"""Models that a router loads on request, with a scripted driver."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from proxy.backends.driver import Capabilities
from proxy.backends.refusals import refusal
from proxy.backends.router import ModelPool, outline
from proxy.errors import BackendBusy, BackendDown, BadRequest, GatewayError, UpstreamFault
from proxy.runtime.cancel import Cancel
from proxy.wire.router import Listed
from tests.fakes import CAPS, ScriptedDriver, client, make_app, services_of, wait_until
from tests.unit.backends.rawserver import RawServer, head

UNKNOWN = outline(Listed(name="lazy", status="unloaded"))
KNOWN = msgspec.structs.replace(
    CAPS, models=("lazy",), template="<t>{{ messages[0].content }}</t>", queues=True
)


class Lazy(ScriptedDriver):
    """A model that is loaded by its first request."""

    status = "unloaded"

    def __init__(self, error: GatewayError | None = None) -> None:
        super().__init__(caps=UNKNOWN)
        self.loads = 0
        self.lost = False
        self._error = error

    @property
    def load_eta(self) -> float:
        return 0.0 if self.status == "loaded" else 5.0

    def refresh(self) -> tuple[Capabilities, bool]:
        lost, self.lost = self.lost, False
        return self.caps, lost

    def load(self, cancel: Cancel) -> Iterator[None]:
        self.loads += 1
        yield
        if self._error is not None:
            raise self._error
        self.caps, self.status = KNOWN, "loaded"

    def loading(self) -> str:
        return "" if self.status == "loaded" else "loading lazy, 50%"


CHAT = {"model": "lazy", "messages": [{"role": "user", "content": "Hello"}]}


def test_first_request_waits_for_load_and_uses_the_models_template() -> None:
    driver = Lazy()
    http = client(driver)
    assert http.post("/v1/chat/completions", json=CHAT).status_code == 200
    assert http.post("/v1/chat/completions", json=CHAT).status_code == 200
    assert driver.loads == 1
    assert [task.prompt for task in driver.tasks] == ["<t>Hello</t>"] * 2


def test_stream_reports_model_loading() -> None:
    text = client(Lazy()).post("/v1/chat/completions", json={**CHAT, "stream": True}).text
    assert text.startswith(": loading lazy, 50%\n\n")
    assert text.rstrip().endswith("data: [DONE]")


@pytest.mark.parametrize(
    ("path", "shown"),
    [("/v1/chat/completions", True), ("/v1/messages", False), ("/v1/responses", False)],
)
def test_stream_of_a_chat_shows_a_load_as_reasoning_if_the_model_wants_it(
    path: str, shown: bool
) -> None:
    app = make_app(Lazy())
    services_of(app).gateway.registry.backends["b0"].shows_load = True
    body = {**CHAT, "input": "Hello", "max_tokens": 8, "stream": True}
    text = app.test_client().post(path, json=body).text
    assert ("loading lazy, 50%\\n" in text) == shown
    assert text.startswith(": loading") != shown
    whole = make_app(Lazy()).test_client().post("/v1/chat/completions", json=CHAT)
    assert "loading" not in whole.text


def test_invalid_request_loads_no_model() -> None:
    driver = Lazy()
    body = {**CHAT, "grammar": "root ::= nonsense"}
    assert client(driver).post("/v1/chat/completions", json=body).status_code == 400
    assert driver.loads == 0


def test_model_lists_show_load_status() -> None:
    http = client(Lazy(), ScriptedDriver())
    lazy, scripted = http.get("/v1/models").json["data"]
    assert lazy["status"] == {"value": "unloaded"}
    assert "status" not in scripted
    assert [one["status"] for one in http.get("/v1/backends").json["data"]] == ["unloaded", None]
    assert [one.get("status") for one in http.get("/api/tags").json["models"]] == ["unloaded", None]
    assert [one["name"] for one in http.get("/api/ps").json["models"]] == ["scripted:latest"]


def test_request_without_model_gets_a_loaded_one() -> None:
    driver = Lazy()
    body = {**CHAT, "model": ""}
    answer = client(driver, ScriptedDriver()).post("/v1/chat/completions", json=body)
    assert answer.json["model"] == "scripted"
    assert driver.loads == 0


def test_unloading_a_model_clears_its_cached_prompts() -> None:
    driver = Lazy()
    app = make_app(driver)
    http = app.test_client()

    def held() -> bool:
        (one,) = http.get("/v1/slots").json["backends"]
        return any(slot["conversation"] is not None for slot in one["slots"])

    long = {**CHAT, "messages": [{"role": "user", "content": "Hello to all of you. " * 30}]}
    assert http.post("/v1/chat/completions", json=long).status_code == 200
    assert held()
    driver.status, driver.lost = "unloaded", True
    registry = services_of(app).gateway.registry
    registry.failed(registry.backends["b0"], UpstreamFault("look now"))
    wait_until(lambda: not held())
    assert http.post("/v1/chat/completions", json=long).status_code == 200
    assert driver.loads == 1  # known properties of the model are kept


@pytest.mark.parametrize(
    ("status", "message", "kind", "code"),
    [
        (500, "model name=x failed to load", UpstreamFault, "model_load_failed"),
        (400, "model name=x is not running", BackendBusy, "upstream_busy"),
        (400, "model is not loaded", UpstreamFault, "model_not_loaded"),
        (400, "another matter", BadRequest, None),
    ],
)
def test_router_refusals_map_to_errors(
    status: int, message: str, kind: type[GatewayError], code: str | None
) -> None:
    error = refusal(status, msgspec.json.encode({"error": {"code": status, "message": message}}))
    assert (type(error), error.code) == (kind, code)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("400 Bad Request", b'{"error": {"message": "model is not loaded"}}'),
        ("400 Bad Request", b'{"error": {"message": "model name=lazy is not running"}}'),
        ("500 Internal Server Error", b"proxy error: Could not establish connection"),
    ],
)
def test_failed_quiet_request_refreshes_model_status(status: str, body: bytes) -> None:
    with RawServer([head(len(body), status) + body]) as server:
        pool = ModelPool(server.url, model="lazy", quiet=True, timeout=60.0, idle=0)
        with pytest.raises(BackendDown):
            pool.ask("POST", "/slots/0?action=none", {})
        (asked,) = server.requests
    assert asked.startswith(b"POST /slots/0?action=none&autoload=false HTTP/1.1\r\n")
    assert asked.endswith(b'{"model":"lazy"}')
