"""Every request is logged and counted once, however it ends."""

from __future__ import annotations

import io
import json
import logging
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import EnvironBuilder

from proxy.accounts.records import Identity
from proxy.apis.openai import chat as openai_chat
from proxy.backends.driver import Capabilities, Input
from proxy.config import Secret, SettingsError, load
from proxy.core.task import CallMaker, Embedded, Forwarded, Ranked
from proxy.errors import TooManyWrongKeys
from proxy.gateway import Info
from proxy.runtime.cancel import Cancel
from proxy.web.auth import MOST_ADDRESSES, Keys, WrongKeyLimiter
from proxy.web.client_address import TrustedProxies
from proxy.web.observability import Lines
from proxy.web.observability.history import OTHER, Finished
from proxy.web.observability.metrics import MOST_SERIES, Metrics
from proxy.web.observability.observer import access
from tests.fakes import CAPS, ScriptedDriver, make_app, make_own_app, say, services_of, wait_until
from tests.unit.gateway.test_embedder import Answer, EmbeddingDriver
from tests.unit.web.account_client import keyed

QUIET = (
    "/livez",
    "/readyz",
    "/health",
    "/v1/health",
    "/metrics",
    "/static/x",
    "/running",
    "/v1/slots",
    "/v1/backends",
    "/shared/x",
)
POLLS = "/pages/api/"
KEY = {"Authorization": "Bearer sesame"}


class Log:
    """The log of a gateway."""

    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    def take(self) -> list[dict[str, Any]]:
        """The access lines since the last call."""
        text = self._stream.getvalue()
        self._stream.seek(0)
        self._stream.truncate()
        return [json.loads(line) for line in text.splitlines() if line.startswith('{"id"')]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    only, stream = Lines(), io.StringIO()
    only.setStream(stream)
    monkeypatch.setattr(logging.root, "handlers", [only])
    before = access.level
    access.setLevel(logging.INFO)
    yield Log(stream)
    access.setLevel(before)


class Whole(FlaskClient):
    """Reads each answer to its end and closes it, as a server does."""

    def open(self, *args: Any, **how: Any) -> Any:
        how.setdefault("buffered", True)
        return super().open(*args, **how)


EVERYTHING = {"chatchat": True, "metrics": True}


def make(tmp_path: Path, driver: ScriptedDriver | None = None, **settings: Any) -> Flask:
    everything = {**EVERYTHING, "data": str(tmp_path)}
    return make_app(driver or ScriptedDriver(), **{**everything, **settings})


def client_of(app: Flask) -> Whole:
    return Whole(app, app.response_class)


def counted(app: Flask) -> int:
    return sum(services_of(app).observer.counts().requests.values())


def requests(app: Flask) -> list[tuple[str, str]]:
    """A request for each route and method."""
    calls = []
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<int:[^>]+>", "7", rule.rule)
        path = re.sub(r"<[^>]+>", "x", path)
        calls += [(path, method) for method in sorted((rule.methods or set()) - {"HEAD"})]
    return sorted(set(calls))


@pytest.mark.parametrize("key", [{}, KEY], ids=["no key", "key"])
def test_each_route_is_logged_and_counted_once(
    tmp_path: Path, log: Log, key: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.web.stream.LIFE", 0.0)
    app = make(tmp_path, api_key=(Secret("sesame"),))
    api = client_of(app)
    log.take()
    seen = 0
    for path, method in requests(app):
        body: dict[str, Any] = {"json": {}} if method in ("POST", "PUT", "DELETE") else {}
        answer = api.open(path, method=method, headers=key, **body)
        seen += 1
        lines, polls = log.take(), path.startswith(POLLS)
        if answer.status_code < 500 and (path in QUIET or (polls and method == "GET")):
            assert lines == []
            continue
        if polls and method == "OPTIONS":
            continue  # it is as quiet as the last of the route's methods
        assert len(lines) == 1, (method, path, lines)
        (line,) = lines
        assert (line["path"], line["method"], line["status"], line["peer"]) == (
            path,
            method,
            answer.status_code,
            "127.0.0.1",
        )
        assert answer.headers.getlist("X-Content-Type-Options") == ["nosniff"], (path, method)
        assert answer.headers.getlist("x-request-id") == [line["id"]], (path, method)
    assert counted(app) == seen > 150


def test_unknown_route_is_logged(tmp_path: Path, log: Log) -> None:
    app = make(tmp_path)
    for number in range(5):
        assert client_of(app).get(f"/nowhere/{number}").status_code == 404
    assert [line["path"] for line in log.take()] == [f"/nowhere/{n}" for n in range(5)]
    assert services_of(app).observer.counts().requests == {(OTHER, "not_found_error"): 5}


def test_refused_health_request_is_logged(tmp_path: Path, log: Log) -> None:
    api = client_of(make(tmp_path, ScriptedDriver(up=False)))
    assert api.get("/readyz").status_code == 503
    assert [line["status"] for line in log.take()] == [503]


def test_stream_is_logged_at_its_end(tmp_path: Path, log: Log) -> None:
    api = client_of(make(tmp_path))
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    answer = api.post("/v1/chat/completions", json=body, buffered=False)
    assert log.take() == []
    answer.get_data()
    answer.close()
    (line,) = log.take()
    assert (line["stream"], line["completion_tokens"]) == (True, 3)


class Slow(EmbeddingDriver):
    """Takes 0.2 seconds for a request that asks for no text."""

    def forward(self, make: CallMaker, cancel: Cancel) -> Forwarded:
        time.sleep(0.2)
        return Heard()

    def embed(self, inputs: Sequence[Input], caps: Capabilities, cancel: Cancel) -> Embedded:
        time.sleep(0.2)
        return Embedded(((1.0,),) * len(inputs), 1)

    def rerank(self, *_: object) -> Ranked:
        time.sleep(0.2)
        return Ranked((1.0,), 1)


class Heard(Answer):
    headers: Mapping[str, str] = {"content-type": "application/json"}


@pytest.mark.parametrize("queues", [False, True])
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/audio/speech", {}),
        ("/v1/embeddings", {"input": "Hi"}),
        ("/v1/rerank", {"query": "Hi", "documents": ["Hello"]}),
    ],
)
def test_request_for_no_text_names_its_backend_whose_time_is_no_overhead(
    path: str, fields: dict[str, Any], queues: bool, tmp_path: Path, log: Log
) -> None:
    app = make(tmp_path, Slow(msgspec.structs.replace(CAPS, queues=queues)))
    answer = client_of(app).post(path, json={"model": "scripted", **fields})
    headers, (line,) = answer.headers, log.take()
    elapsed, overhead = headers["openai-processing-ms"], headers["x-slotproxy-overhead-ms"]
    assert float(elapsed) - float(overhead) >= 199  # the first is rounded
    assert (line["backend"], line["status"]) == ("b0", 200)
    assert headers["x-slotproxy-backend"]


def test_cross_origin_calls_are_counted_once(tmp_path: Path, log: Log) -> None:
    app = make(tmp_path, cors_origins=("https://a.example",))
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    for stream in (False, True):
        client_of(app).post("/v1/chat/completions", json={**body, "stream": stream})
    assert [line["path"] for line in log.take()] == ["/v1/chat/completions"] * 2
    assert services_of(app).observer.counts().requests == {("/v1/chat/completions", "stop"): 2}


def test_unexpected_exception_is_logged_with_the_clients_request_id(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make(tmp_path)
    monkeypatch.setattr(services_of(app).store, "ids", lambda owner: 1 / 0)
    answer = client_of(app).get("/v1/data")
    (line,) = log.take()
    assert (answer.status_code, line["status"]) == (500, 500)
    assert line["id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("through", ["the direct way", "flask"])
@pytest.mark.parametrize("stream", [False, True])
def test_defect_in_a_completion_is_finished_once(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch, through: str, stream: bool
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("secret")

    app = make_own_app(ScriptedDriver(), **EVERYTHING, data=str(tmp_path))
    if through == "flask":
        app.after_request(lambda response: response)
    monkeypatch.setattr(openai_chat, "Encoder" if stream else "reply", broken)
    log.take()
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": stream}
    answer = client_of(app).post("/v1/chat/completions", json=body)
    assert (answer.status_code, "secret" in answer.text) == (500, False)
    assert [line["status"] for line in log.take()] == [500]
    assert (counted(app), services_of(app).observer.running) == (1, 0)


def test_whole_response_is_finished_before_it_is_sent(tmp_path: Path, log: Log) -> None:
    app = make(tmp_path)
    log.take()
    environ = EnvironBuilder("/v1/models").get_environ()
    unread = app(environ, lambda *head: lambda data: None)
    assert [line["status"] for line in log.take()] == [200]
    unread.close()  # type: ignore[attr-defined]  # werkzeug's iterators have it
    assert log.take() == [] and counted(app) == 1


def test_model_list_does_not_count_as_load_on_status_page(tmp_path: Path, log: Log) -> None:
    app = make(tmp_path)
    client_of(app).get("/v1/models")
    assert not services_of(app).observer.samples()


def test_sign_in_is_logged_with_the_key_name(tmp_path: Path, log: Log) -> None:
    api = client_of(make(tmp_path, api_key=(Secret("sesame"),)))
    for secret in ("wrong", "sesame"):
        # A key in a header replaces the CSRF token in scripts.
        api.post("/signin", data={"key": secret}, headers=KEY)
    first, second = log.take()
    assert (first["status"], first["key"], first["outcome"]) == (401, "", "invalid_api_key")
    assert (second["status"], second["outcome"]) == (303, "signed_in")
    assert second["key"] != ""
    assert "sesame" not in json.dumps([first, second])


# metrics


def test_metrics_have_route_names_instead_of_paths(tmp_path: Path, log: Log) -> None:
    app = make(tmp_path)
    api = client_of(app)
    for number in range(20):
        api.get(f"/v1/files/file-{number}")
        api.get(f"/pages/api/chat/conversations/conv_{number}")
    routes = Counter(route for route, _ in services_of(app).observer.counts().requests)
    assert set(routes) == {"/v1/files/<key>", "/pages/api/chat/conversations/<conversation>"}


def test_request_series_are_bounded() -> None:
    metrics = Metrics()
    for number in range(MOST_SERIES + 10):
        metrics.add([Finished(1, f"/{number}", 200, 1.0, Info())])
    requests = metrics.counts({}).requests
    assert len(requests) == MOST_SERIES + 1
    assert requests[OTHER, OTHER] == 10


# addresses


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        ("192.0.2.1", {"X_FORWARDED_FOR": "198.51.100.9"}, "192.0.2.1"),  # not a trusted proxy
        ("10.0.0.1", {}, "10.0.0.1"),
        ("10.0.0.1", {"X_FORWARDED_FOR": "198.51.100.9"}, "198.51.100.9"),
        ("10.0.0.1", {"X_FORWARDED_FOR": "1.1.1.1, 198.51.100.9, 10.0.0.2"}, "198.51.100.9"),
        ("10.0.0.1", {"X_FORWARDED_FOR": "198.51.100.9:4711"}, "198.51.100.9"),
        ("10.0.0.1", {"X_FORWARDED_FOR": "1.1.1.1, nonsense"}, "10.0.0.1"),
        ("10.0.0.1", {"X_FORWARDED_FOR": "1.1.1.1, unknown, 10.0.0.2"}, "10.0.0.2"),
        ("10.0.0.1", {"X_FORWARDED_FOR": "10.0.0.3, 10.0.0.2"}, "10.0.0.3"),  # an internal address
        ("10.0.0.1", {"X_FORWARDED_FOR": "[2001:db8::7]:80"}, "2001:db8::7"),
        ("::ffff:10.0.0.1", {"X_FORWARDED_FOR": "198.51.100.9"}, "198.51.100.9"),
        ("10.0.0.1", {"X_FORWARDED_FOR": "1.1.1.1," * 10_000 + "198.51.100.9"}, "198.51.100.9"),
        ("", {"X_FORWARDED_FOR": "198.51.100.9"}, ""),
    ],
)
def test_client_is_the_rightmost_untrusted_address(
    peer: str, headers: dict[str, str], client: str
) -> None:
    environ = {"REMOTE_ADDR": peer, **{f"HTTP_{name}": value for name, value in headers.items()}}
    assert TrustedProxies(["10.0.0.0/8"]).client(environ) == client


def test_proxy_on_unix_socket_can_be_trusted() -> None:
    environ = {"REMOTE_ADDR": "", "HTTP_X_FORWARDED_FOR": "198.51.100.9"}
    assert TrustedProxies(["unix"]).client(environ) == "198.51.100.9"


def test_log_names_the_client_behind_a_trusted_proxy(tmp_path: Path, log: Log) -> None:
    api = client_of(make(tmp_path, trusted_proxies=("127.0.0.1",)))
    headers = {"X-Forwarded-For": "203.0.113.5"}
    api.post("/v1/chat/completions", json={}, headers=headers)
    api.get("/v1/models", headers=headers)
    assert [line["peer"] for line in log.take()] == ["203.0.113.5"] * 2


def test_trusted_proxy_is_an_address_or_network() -> None:
    assert load(["--trusted-proxies", "10.1.2.3/8,::1,unix"], {}).trusted_proxies == (
        "10.0.0.0/8",
        "::1/128",
        "unix",
    )
    with pytest.raises(SettingsError, match="--trusted-proxies: expected an address"):
        load(["--trusted-proxies", "proxy.example"], {})


# wrong keys


def test_wrong_keys_are_throttled_and_keys_in_use_are_not(tmp_path: Path) -> None:
    api = client_of(make(tmp_path, api_key=(Secret("sesame"), Secret("other")), wrong_keys=3))

    def ask(secret: str, **how: Any) -> Any:
        return api.get("/v1/models", headers={"Authorization": f"Bearer {secret}"}, **how)

    assert ask("sesame").status_code == 200
    assert [ask("wrong").status_code for _ in range(5)] == [401, 401, 401, 429, 429]
    refused = ask("wrong")
    assert refused.json["error"]["code"] == "too_many_wrong_keys"
    assert 0 < int(refused.headers["Retry-After"]) <= 20
    assert ask("sesame").status_code == 200  # the key was accepted from there before
    assert ask("other").status_code == 429  # otherwise the answer would reveal a correct guess
    assert ask("other", environ_base={"REMOTE_ADDR": "192.0.2.9"}).status_code == 200
    signing_in = api.post("/signin", data={"key": "wrong"}, headers=KEY)
    assert signing_in.status_code == 429 and b"Too many invalid keys" in signing_in.data
    assert api.get("/v1/models").status_code == 401  # a request without key is no guess


def test_wrong_key_count_expires_within_a_minute() -> None:
    now = [0.0]
    limiter = WrongKeyLimiter(20, clock=lambda: now[0])
    for _ in range(20):
        limiter.count_wrong("192.0.2.1")
    with pytest.raises(TooManyWrongKeys):
        limiter.count_right("192.0.2.1", "ann")
    now[0] += 3.0
    limiter.count_wrong("192.0.2.1")
    with pytest.raises(TooManyWrongKeys):
        limiter.count_wrong("192.0.2.1")
    now[0] += 60.0
    limiter.count_right("192.0.2.1", "ann")


def test_addresses_of_one_ipv6_network_count_as_one() -> None:
    limiter = WrongKeyLimiter(1, clock=lambda: 0.0)
    limiter.count_wrong("2001:db8::1")
    with pytest.raises(TooManyWrongKeys):
        limiter.count_wrong("2001:db8::2")
    limiter.count_wrong("2001:db8:0:1::1")


def test_table_of_wrong_keys_is_bounded() -> None:
    limiter = WrongKeyLimiter(1, clock=lambda: 0.0)
    for number in range(MOST_ADDRESSES + 1):
        limiter.count_wrong(f"10.0.{number >> 8}.{number & 255}")
    assert len(limiter._wrong) == MOST_ADDRESSES
    limiter.count_wrong("10.0.0.0")  # it has expired


def test_wrong_keys_are_not_throttled_when_disabled() -> None:
    keys = Keys([("sesame", Identity(key="ann"))], 0)
    for _ in range(100):
        with pytest.raises(Exception, match="invalid API key"):
            keys.name_of("wrong", "192.0.2.1")
    assert keys.name_of("sesame", "192.0.2.1") == "ann"


def test_question_on_the_page_is_one_line_with_its_model(tmp_path: Path, log: Log) -> None:
    app = make(tmp_path, ScriptedDriver(say("Hello")))
    if services_of(app).conversations is None:
        pytest.skip("the extra knowledge is not installed")
    page, any_key = client_of(app), {"Authorization": "Bearer any"}
    talks = f"{POLLS}chat/conversations"
    talk = page.post(talks, json={}, headers=any_key).json["id"]
    lines = log.take()
    assert [line["path"] for line in lines] == [talks]
    page.post(f"{talks}/{talk}/ask", json={"text": "Hi"}, headers=any_key)
    lines.clear()

    def is_answered() -> bool:
        lines.extend(log.take())
        return bool(lines)

    wait_until(is_answered)
    assert [(row["path"], row["model"]) for row in lines] == [(f"{talks}/{talk}/ask", "scripted")]
    assert page.post(f"{talks}/{talk}/ask", json={"text": 1}, headers=any_key).status_code == 400
    assert [line["status"] for line in log.take()] == [400]


def test_line_names_a_key_by_its_alias(tmp_path: Path, log: Log) -> None:
    http = keyed(ScriptedDriver(), tmp_path)
    made = http.make(key_alias="bob-laptop")
    log.take()
    assert http.chat(made["key"]).status_code == http.chat("sk-ops").status_code == 200
    lines = [(line["key"], line["key_alias"]) for line in log.take()]
    assert lines == [(made["key_id"], "bob-laptop"), ("ops", "")]
