"""Every request leaves one line and is counted once, whatever becomes of it."""

from __future__ import annotations

import io
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from proxy.config import Secret, SettingsError, load
from proxy.errors import TooManyWrongKeys
from proxy.web.auth import Keys
from proxy.web.ended import OTHER, ended
from proxy.web.guesses import MOST_ADDRESSES, Guesses
from proxy.web.metrics import MOST_SERIES, Metrics
from proxy.web.observe import Lines, Record, access
from proxy.web.pages import status_feed
from proxy.web.peers import TrustedProxies
from tests.fakes import ScriptedDriver, make_app, services_of, wait_until

QUIET = ("/livez", "/readyz", "/health", "/v1/health", "/static/x")
KEY = {"Authorization": "Bearer sesame"}


class Log:
    """What a gateway writes to its log."""

    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    def take(self) -> list[dict[str, Any]]:
        """The lines of requests since the last time."""
        text = self._stream.getvalue()
        self._stream.seek(0)
        self._stream.truncate()
        return [json.loads(one) for one in text.splitlines() if one.startswith('{"id"')]


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


def make(tmp_path: Path, driver: ScriptedDriver | None = None, **settings: Any) -> Flask:
    everything = {"chatchat": True, "metrics": True, "data": str(tmp_path)}
    app = make_app(driver or ScriptedDriver(), **{**everything, **settings})
    app.test_client_class = Whole
    return app


def counted(app: Flask) -> int:
    return sum(services_of(app).observer.counts().requests.values())


def requests(app: Flask) -> list[tuple[str, str]]:
    """A request for each route and method."""
    found = []
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<int:[^>]+>", "7", rule.rule)
        path = re.sub(r"<[^>]+>", "x", path)
        found += [(path, method) for method in sorted((rule.methods or set()) - {"HEAD"})]
    return sorted(set(found))


@pytest.mark.parametrize("key", [{}, KEY], ids=["no key", "key"])
def test_each_route_leaves_one_line_and_is_counted_once(
    tmp_path: Path, log: Log, key: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_feed, "LIFE", 0.0)
    app = make(tmp_path, api_key=(Secret("sesame"),))
    api = app.test_client()
    log.take()
    seen = 0
    for path, method in requests(app):
        body = {"json": {}} if method in ("POST", "PUT", "DELETE") else {}
        answer = api.open(path, method=method, headers=key, **body)
        answer.get_data()
        answer.close()
        seen += 1
        if answer.status_code < 400 and path in QUIET:
            assert log.take() == []
            continue
        (line,) = log.take()
        assert (line["path"], line["method"], line["status"], line["peer"]) == (
            path,
            method,
            answer.status_code,
            "127.0.0.1",
        )
        assert "X-Content-Type-Options" in answer.headers, (path, method)
    assert counted(app) == seen > 150


def test_a_request_that_no_route_takes_leaves_a_line(tmp_path: Path, log: Log) -> None:
    app = make(tmp_path)
    for number in range(5):
        assert app.test_client().get(f"/nowhere/{number}").status_code == 404
    assert [one["path"] for one in log.take()] == [f"/nowhere/{n}" for n in range(5)]
    assert services_of(app).observer.counts().requests == {(OTHER, "not_found_error"): 5}


def test_health_that_is_refused_leaves_a_line(tmp_path: Path, log: Log) -> None:
    api = make(tmp_path, ScriptedDriver(up=False)).test_client()
    assert api.get("/readyz").status_code == 503
    assert [one["status"] for one in log.take()] == [503]


def test_a_stream_leaves_its_line_at_its_end(tmp_path: Path, log: Log) -> None:
    api = make(tmp_path).test_client()
    asked = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    answer = api.post("/v1/chat/completions", json=asked, buffered=False)
    assert log.take() == []
    answer.get_data()
    answer.close()
    (line,) = log.take()
    assert (line["stream"], line["completion_tokens"]) == (True, 3)


def test_cross_origin_calls_are_counted_once(tmp_path: Path, log: Log) -> None:
    app = make(tmp_path, cors_origins=("https://a.example",))
    asked = {"messages": [{"role": "user", "content": "Hi"}]}
    for stream in (False, True):
        answer = app.test_client().post("/v1/chat/completions", json={**asked, "stream": stream})
        answer.get_data()
        answer.close()
    assert [one["path"] for one in log.take()] == ["/v1/chat/completions"] * 2
    assert services_of(app).observer.counts().requests == {("/v1/chat/completions", "stop"): 2}


def test_embeddings_tell_their_model_and_tokens(tmp_path: Path, log: Log) -> None:
    app = make(tmp_path)

    class Embedder:
        def embed(self, model: str, inputs: Any, cancel: Any) -> Any:
            class Found:
                vectors, tokens = [[0.5, 0.5]], 3

            return "tiny", Found()

    object.__setattr__(services_of(app), "embedder", Embedder())
    assert app.test_client().post("/v1/embeddings", json={"input": "x"}).status_code == 200
    (line,) = log.take()
    assert (line["model"], line["prompt_tokens"], line["status"]) == ("tiny", 3, 200)
    assert sum(one.requests for one in services_of(app).observer.samples()) == 1


def test_a_defect_leaves_a_line_with_the_id_its_client_was_told(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make(tmp_path)
    monkeypatch.setattr(services_of(app).store, "ids", lambda owner: 1 / 0)
    answer = app.test_client().get("/v1/data")
    (line,) = log.take()
    assert (answer.status_code, line["status"]) == (500, 500)
    assert line["id"] == answer.headers["x-request-id"]


def test_what_only_a_page_does_is_no_load_on_the_status_page(tmp_path: Path, log: Log) -> None:
    app = make(tmp_path)
    app.test_client().get("/v1/models")
    assert services_of(app).observer.samples() == []


def test_signing_in_leaves_the_name_of_the_key(tmp_path: Path, log: Log) -> None:
    api = make(tmp_path, api_key=(Secret("sesame"),)).test_client()
    for secret in ("wrong", "sesame"):
        # A key in a header is what spares a script the CSRF token.
        api.post("/signin", data={"key": secret}, headers=KEY)
    first, second = log.take()
    assert (first["status"], first["key"], first["outcome"]) == (401, "", "invalid_api_key")
    assert (second["status"], second["outcome"]) == (303, "signed_in")
    assert second["key"] != ""
    assert "sesame" not in json.dumps([first, second])


def test_a_deletion_leaves_who_did_it(tmp_path: Path, log: Log) -> None:
    api = make(tmp_path, api_key=(Secret("sesame"),)).test_client()
    assert api.delete("/v1/data", headers=KEY).status_code == 200
    (line,) = log.take()
    assert (line["method"], line["path"], line["status"]) == ("DELETE", "/v1/data", 200)
    assert line["key"]


# metrics


def test_metrics_name_routes_and_no_paths(tmp_path: Path, log: Log) -> None:
    app = make(tmp_path)
    api = app.test_client()
    for number in range(20):
        api.get(f"/v1/files/file-{number}")
        api.get(f"/pages/api/chat/conversations/conv_{number}")
    routes = Counter(route for route, _ in services_of(app).observer.counts().requests)
    assert set(routes) == {"/v1/files/<key>", "/pages/api/chat/conversations/<conversation>"}


def test_series_of_requests_are_bounded() -> None:
    metrics = Metrics()
    for number in range(MOST_SERIES + 10):
        record = Record({})
        record.route = f"/{number}"
        metrics.add([ended(record, 1.0, 1.0)])
    requests = metrics.counts(0).requests
    assert len(requests) == MOST_SERIES + 1
    assert requests[OTHER, OTHER] == 10


# addresses


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        ("192.0.2.1", {"X_FORWARDED_FOR": "198.51.100.9"}, "192.0.2.1"),  # no proxy of ours
        ("10.0.0.1", {}, "10.0.0.1"),
        ("10.0.0.1", {"X_FORWARDED_FOR": "198.51.100.9"}, "198.51.100.9"),
        ("10.0.0.1", {"X_FORWARDED_FOR": "1.1.1.1, 198.51.100.9, 10.0.0.2"}, "198.51.100.9"),
        ("10.0.0.1", {"X_FORWARDED_FOR": "198.51.100.9:4711"}, "198.51.100.9"),
        ("10.0.0.1", {"X_FORWARDED_FOR": "1.1.1.1, nonsense"}, "10.0.0.1"),
        ("10.0.0.1", {"X_FORWARDED_FOR": "1.1.1.1, unknown, 10.0.0.2"}, "10.0.0.2"),
        ("10.0.0.1", {"X_FORWARDED_FOR": "10.0.0.3, 10.0.0.2"}, "10.0.0.3"),  # one of inside
        ("10.0.0.1", {"FORWARDED": 'for="[2001:db8::7]:80";proto=https'}, "2001:db8::7"),
        ("10.0.0.1", {"FORWARDED": "for=1.1.1.1, proto=http;for=198.51.100.9"}, "198.51.100.9"),
        ("::ffff:10.0.0.1", {"X_FORWARDED_FOR": "198.51.100.9"}, "198.51.100.9"),
        ("10.0.0.1", {"X_FORWARDED_FOR": "1.1.1.1," * 10_000 + "198.51.100.9"}, "198.51.100.9"),
        ("", {"X_FORWARDED_FOR": "198.51.100.9"}, ""),
    ],
)
def test_the_rightmost_address_that_is_no_proxy_is_the_clients(
    peer: str, headers: dict[str, str], client: str
) -> None:
    environ = {"REMOTE_ADDR": peer, **{f"HTTP_{name}": value for name, value in headers.items()}}
    assert TrustedProxies(["10.0.0.0/8"]).client(environ) == client


def test_a_proxy_on_a_unix_socket_may_be_trusted() -> None:
    environ = {"REMOTE_ADDR": "", "HTTP_X_FORWARDED_FOR": "198.51.100.9"}
    assert TrustedProxies(["unix"]).client(environ) == "198.51.100.9"


def test_lines_name_the_client_behind_a_trusted_proxy(tmp_path: Path, log: Log) -> None:
    api = make(tmp_path, trusted_proxies=("127.0.0.1",)).test_client()
    headers = {"X-Forwarded-For": "203.0.113.5"}
    api.post("/v1/chat/completions", json={}, headers=headers)
    api.get("/v1/models", headers=headers)
    assert [one["peer"] for one in log.take()] == ["203.0.113.5"] * 2


def test_a_trusted_proxy_is_an_address_or_a_network() -> None:
    assert load(["--trusted-proxies", "10.1.2.3/8,::1,unix"], {}).trusted_proxies == (
        "10.0.0.0/8",
        "::1/128",
        "unix",
    )
    with pytest.raises(SettingsError, match="--trusted-proxies: expected an address"):
        load(["--trusted-proxies", "proxy.example"], {})


# wrong keys


def test_wrong_keys_are_slowed_and_a_key_in_use_is_not(tmp_path: Path) -> None:
    api = make(tmp_path, api_key=(Secret("sesame"), Secret("other")), wrong_keys=3).test_client()

    def ask(secret: str, **how: Any) -> Any:
        return api.get("/v1/models", headers={"Authorization": f"Bearer {secret}"}, **how)

    assert ask("sesame").status_code == 200
    assert [ask("wrong").status_code for _ in range(5)] == [401, 401, 401, 429, 429]
    refused = ask("wrong")
    assert refused.json["error"]["code"] == "too_many_wrong_keys"
    assert 0 < int(refused.headers["Retry-After"]) <= 20
    assert ask("sesame").status_code == 200  # it was right from there before
    assert ask("other").status_code == 429  # or a hit could be told from a miss
    assert ask("other", environ_base={"REMOTE_ADDR": "192.0.2.9"}).status_code == 200
    signing_in = api.post("/signin", data={"key": "wrong"}, headers=KEY)
    assert signing_in.status_code == 429 and b"Too many wrong keys" in signing_in.data
    assert api.get("/v1/models").status_code == 401  # who shows none guesses none


def test_wrong_keys_are_forgotten_within_a_minute() -> None:
    now = [0.0]
    guesses = Guesses(20, clock=lambda: now[0])
    for _ in range(20):
        guesses.wrong("192.0.2.1")
    with pytest.raises(TooManyWrongKeys):
        guesses.right("192.0.2.1", "ann")
    now[0] += 3.0
    guesses.wrong("192.0.2.1")
    with pytest.raises(TooManyWrongKeys):
        guesses.wrong("192.0.2.1")
    now[0] += 60.0
    guesses.right("192.0.2.1", "ann")


def test_addresses_of_one_ipv6_network_are_one() -> None:
    guesses = Guesses(1, clock=lambda: 0.0)
    guesses.wrong("2001:db8::1")
    with pytest.raises(TooManyWrongKeys):
        guesses.wrong("2001:db8::2")
    guesses.wrong("2001:db8:0:1::1")


def test_the_table_of_wrong_keys_is_bounded() -> None:
    guesses = Guesses(1, clock=lambda: 0.0)
    for number in range(MOST_ADDRESSES + 1):
        guesses.wrong(f"10.0.{number >> 8}.{number & 255}")
    assert len(guesses._wrong) == MOST_ADDRESSES
    guesses.wrong("10.0.0.0")  # it was forgotten


def test_wrong_keys_have_no_limit_where_that_is_set() -> None:
    keys = Keys([("ann", "sesame")], 0)
    for _ in range(100):
        with pytest.raises(Exception, match="not known"):
            keys.judge("wrong", "192.0.2.1")
    assert keys.judge("sesame", "192.0.2.1") == "ann"


def test_an_answer_of_the_chat_page_leaves_a_line_of_its_own(tmp_path: Path, log: Log) -> None:
    app = make(tmp_path)
    if services_of(app).conversations is None:
        pytest.skip("the extra knowledge is not installed")
    api, key = app.test_client(), {"Authorization": "Bearer any"}
    talk: Any = api.post("/pages/api/chat/conversations", headers=key, json={}).json
    path = f"/pages/api/chat/conversations/{talk['id']}/ask"
    assert api.post(path, json={"text": "Hi"}, headers=key).status_code == 201
    found: list[Any] = []
    wait_until(lambda: bool(found.extend(log.take())) or len(found) == 3)
    assert sorted(one["completion_tokens"] for one in found) == [0, 0, 3]
    routes = {route for route, _ in services_of(app).observer.counts().requests}
    assert not any(talk["id"] in one for one in routes)
