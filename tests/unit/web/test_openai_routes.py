"""OpenAI's routes on a scripted backend: keys, headers, errors, streams."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.config.keys import Secret
from tests.fakes import ScriptedDriver, client, make_app, say, services_of

USER = [{"role": "user", "content": "Hi"}]


def chat(to: Any, **fields: Any) -> Any:
    headers = fields.pop("headers", None)
    return to.post("/v1/chat/completions", json={"messages": USER, **fields}, headers=headers)


def read(answer: Any) -> None:
    """Reads the answer to its end and closes it, as a server does."""
    with answer:
        answer.get_data()


# keys


@pytest.fixture(scope="module")
def default() -> Any:
    return client()


@pytest.fixture(scope="module")
def locked() -> Any:
    return client(wrong_keys=0, api_key=(Secret("s3cret"), Secret("other-ключ")))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "s3cret"},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic czNjcmV0"},
        {"x-api-key": "wrong"},
        {"Authorization": "Bearer s3cret x"},
    ],
)
def test_missing_or_wrong_key_is_401(locked: Any, headers: dict[str, str]) -> None:
    for path in ("/v1/models", "/v1/backends"):
        assert locked.get(path, headers=headers).status_code == 401
    answer = chat(locked, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert answer.json["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer s3cret"},
        {"Authorization": "bearer  s3cret"},
        {"x-api-key": "s3cret"},
    ],
)
def test_right_key_is_accepted(locked: Any, headers: dict[str, str]) -> None:
    assert chat(locked, headers=headers).status_code == 200


def test_health_and_options_need_no_key(locked: Any) -> None:
    for path in ("/health", "/v1/health", "/livez", "/readyz"):
        assert locked.get(path).status_code == 200
    for path in ("/v1/chat/completions", "/v1/nowhere"):
        assert locked.options(path).status_code < 300


# cross-origin


def test_cors_is_off_by_default() -> None:
    answer = client().options("/v1/models", headers={"Origin": "http://page"})
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_only_named_origins_are_allowed_and_credentials_never_with_a_wildcard() -> None:
    to = client(cors_origins=("http://page",))
    answer = to.options("/v1/chat/completions", headers={"Origin": "http://page"})
    assert answer.headers["Access-Control-Allow-Origin"] == "http://page"
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
    other = to.options("/v1/models", headers={"Origin": "http://else"})
    assert "Access-Control-Allow-Origin" not in other.headers
    anyone = client(cors_origins=("*",)).options("/v1/models", headers={"Origin": "http://page"})
    assert anyone.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in anyone.headers


def test_pages_of_named_origins_may_read_warnings_and_retry_times() -> None:
    answer = client(cors_origins=("http://page",)).get("/health", headers={"Origin": "http://page"})
    exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
    assert {"x-request-id", "x-slotproxy-warning", "retry-after"} <= set(exposed)


def test_named_host_allows_its_pages_on_any_port() -> None:
    to = client(cors_origins=("localhost", "lan.example"))

    def allowed(origin: str) -> bool:
        answer = to.options("/v1/models", headers={"Origin": origin})
        return answer.headers.get("Access-Control-Allow-Origin") == origin

    local = ("http://localhost", "https://localhost:8080", "http://127.0.0.1:3000", "http://[::1]")
    assert all(map(allowed, (*local, "https://lan.example:8443")))
    foreign = ("http://localhost.evil.com", "http://notlocalhost", "http://evil/localhost", "null")
    assert not any(map(allowed, (*foreign, "http://localhost@evil.com", "http://[x", "file://x")))


def test_cors_proxy_route_is_refused() -> None:
    answer = client().get("/cors-proxy?url=http://127.0.0.1/")
    assert answer.status_code == 403


# answers


def test_headers_of_a_stream_keep_proxies_from_holding_it() -> None:
    answer = chat(client(), stream=True)
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Accel-Buffering"] == "no"


def test_invalid_request_id_is_not_echoed() -> None:
    for bad in ("a b", "x" * 200, "ü"):
        answer = chat(client(), headers={"x-request-id": bad})
        assert answer.headers["x-request-id"] != bad


def test_prompt_tokens_are_returned_on_request() -> None:
    """The reference's `tokenize: true`."""
    answer = client().post("/v1/completions", json={"prompt": "ab", "tokenize": True})
    assert answer.json["promptToken"] == [97, 98]


def test_routes_also_exist_without_v1() -> None:
    to = client()
    assert to.post("/chat/completions", json={"messages": USER}).status_code == 200
    assert to.post("/completions", json={"prompt": "a"}).status_code == 200


def test_url_prefix_applies_to_every_route() -> None:
    to = client(api_prefix="/llm")
    assert to.get("/llm/v1/models").status_code == 200
    assert to.get("/v1/models").status_code == 404


# leases


def test_unread_stream_releases_its_lease() -> None:
    """After a disconnect, the server closes the body without iterating it."""
    driver = ScriptedDriver(say(*"abcdef"))
    app = make_app(driver)
    answer = app.test_client().post(
        "/v1/chat/completions", json={"messages": USER, "stream": True}, buffered=False
    )
    assert services_of(app).gateway.scheduler.outstanding == 1
    answer.close()
    assert services_of(app).gateway.scheduler.outstanding == 0
    assert driver.runs[0].closed.is_set()


# metrics


def test_metrics_are_off_by_default() -> None:
    assert client().get("/metrics").status_code == 404


def test_metrics_count_requests_and_tokens() -> None:
    to = client(metrics=True)
    chat(to)
    read(chat(to, stream=True))
    chat(to, temperature="x")
    text = to.get("/metrics").get_data(as_text=True)
    for line in (
        'vllm:prompt_tokens_total{backend="b0",model_name="scripted"} 14.0',
        'vllm:generation_tokens_total{backend="b0",model_name="scripted"} 6.0',
        'vllm:prefix_cache_hits_total{backend="b0",model_name="scripted"} 4.0',
        'vllm:prefix_cache_queries_total{backend="b0",model_name="scripted"} 14.0',
        'vllm:time_to_first_token_seconds_count{backend="b0",model_name="scripted"} 2.0',
        'vllm:request_prompt_tokens_bucket{backend="b0",le="10.0",model_name="scripted"} 2.0',
        'vllm:request_success_total{backend="b0",finished_reason="stop",model_name="scripted"} 2.0',
        'slotproxy:requests_total{outcome="stop",path="/v1/chat/completions"} 2.0',
        'vllm:num_requests_running{model_name="scripted"} 0.0',
        'vllm:num_requests_waiting{model_name="scripted"} 0.0',
        'slotproxy:backend_up{backend="b0",model_name="scripted"} 1.0',
        'vllm:kv_cache_usage_perc{backend="b0",model_name="scripted"} 0.0',
    ):
        assert line in text, text


# models


def test_single_model_accepts_any_name() -> None:
    answer = chat(client(), model="gpt-4")
    assert answer.json["model"] == "scripted"


def test_unknown_model_is_404_with_strict_models() -> None:
    to = client(strict_models=True)
    assert chat(to, model="scripted").status_code == 200
    answer = chat(to, model="gpt-4")
    assert answer.status_code == 404
    assert answer.json["error"]["code"] == "model_not_found"


def test_model_alias_is_listed_and_used_in_answers() -> None:
    to = client(alias=("mine", "gpt-4"))
    listed = to.get("/v1/models").json
    assert [m["id"] for m in listed["data"]] == ["mine", "gpt-4"]
    answer = chat(to, model="gpt-4")
    assert answer.json["model"] == "gpt-4"
