"""LiteLLM's management API: keys and their rights."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from proxy.accounts import key_cache
from proxy.accounts.rights import APIS
from proxy.apis import added
from proxy.config.keys import ApiKey, Secret, conflict
from proxy.errors import StoreUnavailable
from proxy.hosting.model import State
from proxy.web.routes import routes_of
from tests.fakes import ScriptedDriver, make_app, services_of
from tests.unit.hosting import fakes as hosted
from tests.unit.web.account_client import CHAT, Http, keyed
from tests.unit.web.test_pages_session import sign_in


def test_generated_key_works_and_is_shown_once(http: Http) -> None:
    made = http.make(key_alias="laptop", metadata={"owner": "Bo"}, duration="1h")
    assert key_cache.is_well_formed(made["key"])
    assert http.chat(made["key"]).status_code == 200
    info = http.get("/key/info", "sk-ops")
    assert info.status_code == 404  # a key of the settings is not in the store
    listed = http.get("/key/list", "sk-ops", return_full_object="true").json
    (shown,) = listed["keys"]
    assert made["key"] not in str(listed)
    assert shown["token"] == made["token"] == made["token_id"]
    assert (shown["key_alias"], shown["metadata"]) == ("laptop", {"owner": "Bo"})
    assert shown["expires"].endswith("Z")
    assert shown["created_by"] == "ops"
    assert listed == {"keys": [shown], "total_count": 1, "current_page": 1, "total_pages": 1}


def test_key_is_described_to_administrators_and_to_itself(http: Http) -> None:
    made = http.make(key_alias="laptop")
    for name in (made["key"], made["token"], made["key_id"]):
        info = http.get("/key/info", "sk-ops", key=name).json
        assert info["key"] == name
        assert info["info"]["key_alias"] == "laptop"
    own = http.get("/key/info", made["key"]).json
    assert own["info"]["key_id"] == made["key_id"]


MANAGES = (
    "/key/generate /key/update /key/block /key/unblock /key/delete /user/new /user/update"
    " /user/delete /team/new /team/update /team/block /team/unblock /team/delete"
)


@pytest.mark.parametrize("key", ["sk-alice", "made"])
def test_other_keys_may_not_manage(http: Http, key: str) -> None:
    made = http.make()
    key = made["key"] if key == "made" else key
    for path in MANAGES.split():
        refused = http.post(path, key, key=made["key"])
        assert refused.status_code == 403, path
        assert refused.json["error"]["type"] == "permission_error"
    for path in ("/key/list", "/user/list", "/team/list", "/team/info"):
        assert http.get(path, key).status_code == 403, path


def test_blocked_key_is_refused_until_it_is_unblocked(http: Http) -> None:
    made = http.make()
    for path, status in (("/key/block", 401), ("/key/unblock", 200)):
        assert http.admin(path).status_code == 400
        changed = http.admin(path, key=made["token"])
        assert changed.json["blocked"] is (path == "/key/block")
        assert http.chat(made["key"]).status_code == status


def test_expired_key_says_so(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    made = http.make(duration="30s")
    assert http.chat(made["key"]).status_code == 200
    now = time.time()
    monkeypatch.setattr("proxy.web.auth.time.time", lambda: now + 31)
    refused = http.chat(made["key"])
    assert (refused.status_code, "expired" in refused.json["error"]["message"]) == (401, True)
    assert http.admin("/key/update", key=made["key"], duration="1h").status_code == 200
    assert http.chat(made["key"]).status_code == 200
    assert http.admin("/key/update", key=made["key"], duration="-1").json["expires"] is None


def test_deleted_key_is_unknown_and_its_alias_gets_no_data(http: Http) -> None:
    made = http.make(key_alias="laptop")
    stored = http.post("/v1/vector_stores", made["key"], name="kept")
    assert stored.status_code == 200
    assert http.admin("/key/delete", key_aliases=["laptop"]).json == {
        "deleted_keys": [made["token"]]
    }
    assert http.chat(made["key"]).status_code == 401
    again = http.make(key_alias="laptop")
    assert again["key_id"] != made["key_id"]
    assert http.get("/v1/vector_stores", again["key"]).json["data"] == []


def test_update_changes_alias_and_metadata(http: Http) -> None:
    made = http.make(key_alias="laptop", metadata={"a": 1})
    changed = http.admin("/key/update", key=made["key_id"], key_alias="desk", metadata={}).json
    assert (changed["key_alias"], changed["metadata"]) == ("desk", {})
    assert http.admin("/key/update", key=made["key_id"], key_alias="").json["key_alias"] is None
    http.make(key_alias="taken")
    taken = http.admin("/key/update", key=made["key_id"], key_alias="taken")
    assert (taken.status_code, taken.json["error"]["param"]) == (400, "key_alias")


@pytest.mark.parametrize(
    "field",
    [
        {"model_max_budget": {"a": 10}},
        {"rpm_limit_type": "best_effort_throughput"},
        {"budget_id": "b"},
        {"guardrails": ["x"]},
        {"spend": 3},
        {"unknown": True},
    ],
)
def test_limit_that_would_not_hold_is_refused_by_name(http: Http, field: dict[str, Any]) -> None:
    for path, more in (("/key/generate", {}), ("/key/update", {"key": "key_1"})):
        refused = http.admin(path, **field, **more)
        assert (refused.status_code, refused.json["error"]["param"]) == (400, *field)


def test_empty_fields_of_litellm_are_accepted(http: Http) -> None:
    http.make(config={}, aliases={}, permissions={}, guardrails=[], max_budget=None, spend=0)


def test_without_administrators_no_keys_are_kept(tmp_path: Path) -> None:
    http = keyed(ScriptedDriver(), tmp_path, admins=())
    assert http.admin("/key/generate").status_code == 403
    assert http.chat(key_cache.make_secret(bytes(key_cache.SECRET_BYTES))).status_code == 401
    open_to_all = Http(make_app(ScriptedDriver(), data=str(tmp_path)))
    assert open_to_all.admin("/key/generate").status_code == 404


def test_wrong_keys_are_limited_before_the_store_is_asked(
    http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    http.make()
    digests: list[str] = []
    monkeypatch.setattr(
        "proxy.store.api_keys.ApiKeys.find", lambda self, digest: digests.append(digest)
    )
    statuses = [
        http.chat(key_cache.make_secret(bytes([i] * key_cache.SECRET_BYTES))).status_code
        for i in range(6)
    ]
    assert statuses == [401, 401, 401, 429, 429, 429]
    assert len(digests) == 3


def test_store_that_is_away_closes_the_gateway_for_unknown_keys_only(
    http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, unknown = http.make()["key"], http.make()["key"]
    assert http.chat(known).status_code == 200

    def away(self: object, digest: str) -> None:
        raise StoreUnavailable("the data store is away", retry_after=2.0)

    monkeypatch.setattr("proxy.store.api_keys.ApiKeys.find", away)
    refused = http.chat(unknown)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
    assert http.chat(known).status_code == http.chat("sk-alice").status_code == 200


def _sign_in(http: Http, key: str, language: str = "en") -> Any:
    browser = http.app.test_client()
    return browser, sign_in(browser, key, language=language)


def test_pages_open_to_a_key_of_the_store_until_it_is_blocked(http: Http) -> None:
    made = http.make(key_alias="laptop")
    browser, signed_in = _sign_in(http, made["key"])
    assert signed_in.status_code == 303
    assert browser.get("/pages/api/status").status_code == 200
    http.admin("/key/block", key=made["key"])
    assert browser.get("/pages/api/status").status_code == 401


@pytest.mark.parametrize("grace", [{}, {"grace_period": "1h"}])
def test_regenerated_key_is_signed_out_of_the_pages(http: Http, grace: dict[str, str]) -> None:
    made, other = http.make(), http.make()
    (browser, _), (stays, _) = _sign_in(http, made["key"]), _sign_in(http, other["key"])
    assert browser.get("/pages/api/status").status_code == 200
    again = http.admin("/key/regenerate", key=made["key"], **grace).json
    assert browser.get("/pages/api/status").status_code == 401
    assert stays.get("/pages/api/status").status_code == 200
    browser, _ = _sign_in(http, again["key"])
    assert browser.get("/pages/api/status").status_code == 200


@pytest.mark.parametrize(
    ("language", "blocked", "expired", "wrong"),
    [
        ("en", "is blocked. Ask an admin", "This API key has expired.", "Invalid API key."),
        ("zh", "已被停用，请联系管理员", "此密钥已过期", "密钥无效。"),
    ],
)
def test_sign_in_says_why_a_key_is_refused(
    http: Http,
    monkeypatch: pytest.MonkeyPatch,
    language: str,
    blocked: str,
    expired: str,
    wrong: str,
) -> None:
    made = http.make(duration="30s")

    def reasons(key: str) -> list[str]:
        _, refused = _sign_in(http, key, language)
        assert refused.status_code == 401
        return [text for text in (blocked, expired, wrong) if text in refused.text]

    http.admin("/key/block", key=made["token"])
    assert reasons(made["key"]) == [blocked]
    http.admin("/key/unblock", key=made["token"])
    now = time.time()
    monkeypatch.setattr("proxy.web.auth.time.time", lambda: now + 31)
    assert reasons(made["key"]) == [expired]
    assert reasons("sk-wrong") == [wrong]


@pytest.mark.parametrize("key", ["", "ops", "sk-alice"])
def test_key_of_the_settings_has_no_more_to_read(http: Http, key: str) -> None:
    refused = http.get("/key/info", "sk-ops", key=key)
    assert refused.status_code == 404
    assert "one of the settings" in refused.json["error"]["message"]
    missing = http.get("/key/info", "sk-ops", key="key_none")
    assert missing.json["error"]["message"] == "there is no such API key"


@pytest.mark.parametrize(
    "path", ["/key/{}/regenerate", "/key/{}/none", "/{}", "/" + "x" * 180 + "{}"]
)
@pytest.mark.parametrize("secret", ["sk-ops", "sk-wrong"])
def test_key_in_the_path_is_not_logged(
    http: Http, caplog: pytest.LogCaptureFixture, path: str, secret: str
) -> None:
    key = http.make()["key"]
    with caplog.at_level("INFO"):
        answer = http.post(path.format(key), secret)
    assert f'"path":"{path.format("sk-...")}"' in caplog.text
    assert key[:19] not in caplog.text
    if answer.status_code != 200:
        assert key[:19] not in answer.text


def test_name_in_the_form_of_the_store_is_refused_in_a_key_file() -> None:
    assert "form of keys in the store" in conflict([ApiKey(f"key_{0:024x}", Secret("x"))])


ROUTES = [
    ("POST", "/v1/chat/completions", CHAT),
    ("POST", "/v1/completions", {"model": "scripted", "prompt": "Hi"}),
    ("POST", "/v1/responses", {"model": "scripted", "input": "Hi"}),
    ("POST", "/v1/messages", {**CHAT, "max_tokens": 9}),
    ("POST", "/api/chat", CHAT),
    ("POST", "/api/generate", {"model": "scripted"}),
    ("POST", "/api/show", {"model": "scripted"}),
    ("POST", "/chat", {"prompt": "Hi"}),
    ("POST", "/completion", {"prompt": "Hi"}),
    ("POST", "/apply-template", CHAT),
    ("POST", "/tokenize", {"content": "Hi"}),
    ("POST", "/tokenize", {"prompt": "Hi"}),
    ("POST", "/detokenize", {"tokens": [65]}),
    ("POST", "/v1/chat/completions/input_tokens", CHAT),
    ("POST", "/v1/responses/input_tokens", {"model": "scripted", "input": "Hi"}),
    ("POST", "/v1/messages/count_tokens", CHAT),
    ("POST", "/v1/embeddings", {"model": "scripted", "input": "Hi"}),
    ("POST", "/v1/rerank", {"model": "scripted", "query": "a", "documents": ["b"]}),
    ("GET", "/v1/models/scripted", None),
    ("GET", "/props", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_model_outside_of_the_rights_is_forbidden(
    http: Http, method: str, path: str, body: Any
) -> None:
    key = http.make(models=["other*"])["key"]
    headers = {"Authorization": f"Bearer {key}"}
    refused = http.client.open(path, method=method, json=body, headers=headers)
    assert refused.status_code == 403, refused.text
    assert "may not use the model" in refused.text


def test_lists_have_the_models_that_a_key_may_use(http: Http) -> None:
    for models, listed in ((["scr*"], ["scripted"]), (["other"], [])):
        key = http.make(models=models)["key"]
        assert [model["id"] for model in http.get("/v1/models", key).json["data"]] == listed
        tags = http.get("/api/tags", key).json["models"]
        assert [tag["name"].removesuffix(":latest") for tag in tags] == listed
        backends = http.get("/v1/backends", key).json["data"]
        assert [backend["model"] for backend in backends] == listed


def test_hosted_models_are_shown_to_keys_that_may_use_them(http: Http) -> None:
    model = services_of(http.app).host.add(hosted.config(name="scripted"))
    model.state = State.LOADING
    for models, listed in ((["scr*"], ["scripted"]), (["other"], [])):
        key = http.make(models=models)["key"]
        running = http.get("/running", key).json["running"]
        page = http.get("/pages/api/models", key).json["models"]
        assert [entry["model"] for entry in running] == [entry["name"] for entry in page] == listed


def test_rights_count_at_once_when_they_change(http: Http) -> None:
    made = http.make(models=["other"])
    assert http.chat(made["key"]).status_code == 403
    assert http.admin("/key/update", key=made["token"], models=["script*"]).status_code == 200
    assert http.chat(made["key"]).status_code == 200
    changed = http.admin("/key/update", key=made["token"], allowed_routes=["embeddings"]).json
    assert changed["models"] == ["script*"]
    assert http.chat(made["key"]).status_code == 403


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat", "/v1/files"])
def test_apis_outside_of_the_rights_are_forbidden(http: Http, path: str) -> None:
    key = http.make(allowed_routes=["embeddings"])["key"]
    refused = http.post(path, key, **CHAT)
    assert refused.status_code == 403, refused.text
    assert "allowed_routes" in refused.text
    assert http.get("/v1/models", key).status_code == 200


def test_read_only_key_only_reads(http: Http) -> None:
    key = http.make(read_only=True)["key"]
    assert http.get("/v1/models", key).status_code == 200
    assert http.get("/v1/vector_stores", key).status_code == 200
    assert http.post("/v1/vector_stores", key, name="new").status_code == 403
    assert http.chat(key).status_code == 403


def test_key_is_bound_to_its_addresses(http: Http) -> None:
    near, far = http.make(allowed_ips=["127.0.0.0/8"]), http.make(allowed_ips=["10.0.0.0/8"])
    assert http.chat(near["key"]).status_code == 200
    assert "allowed_ips" in http.chat(far["key"]).text


def test_admin_key_of_the_store_manages_until_it_is_not(http: Http) -> None:
    made = http.make(admin=True)
    other = http.post("/key/generate", made["key"], key_alias="x").json
    assert other["created_by"] == made["key_id"]
    http.admin("/key/update", key=made["token"], admin=False)
    assert http.post("/key/generate", made["key"]).status_code == 403


def test_pages_need_their_right(http: Http) -> None:
    key = http.make(allowed_routes=["chat"])["key"]
    assert http.get("/status", key).status_code == 403
    assert http.get("/status", http.make(allowed_routes=["pages"])["key"]).status_code == 200


def test_every_route_is_in_a_known_group(http: Http) -> None:
    routes = routes_of(http.app)
    assert {served.group for served in routes.values()} <= {"", *APIS, *added()}
    chat = "/v1/chat/completions"
    assert (routes["POST", chat].group, routes["POST", chat].path) == ("chat", chat)
    assert routes["POST", "/key/generate"].group == routes["POST", "/models/load"].group == "admin"
    assert (routes["GET", "/"].group, routes["POST", "/"].group) == ("pages", "glm")


def test_regenerated_key_keeps_its_data_and_both_secrets_for_a_time(http: Http) -> None:
    made = http.make(key_alias="laptop")
    http.post("/v1/vector_stores", made["key"], name="kept")
    new = http.admin("/key/regenerate", key=made["key"], grace_period="1h").json
    assert new["key"] != made["key"]
    assert (new["key_id"], new["key_alias"]) == (made["key_id"], "laptop")
    for key in (made["key"], new["key"]):
        (store,) = http.get("/v1/vector_stores", key).json["data"]
        assert store["name"] == "kept"
    last = http.admin(f"/key/{new['token']}/regenerate", models=["other"]).json
    assert last["models"] == ["other"]
    assert [http.chat(key).status_code for key in (made["key"], new["key"])] == [401, 401]
    assert http.chat(last["key"]).status_code == 403
    endless = http.admin("/key/regenerate", key=last["key"], grace_period="-1")
    assert (endless.status_code, endless.json["error"]["param"]) == (400, "grace_period")


def test_audit_tells_who_changed_what(http: Http) -> None:
    made = http.make(key_alias="laptop", metadata={"note": "private"})
    http.admin("/key/block", key=made["key"])
    http.admin("/user/new", user_id="carol", auto_create_key=False)
    listed = http.get("/v1/audit", "sk-ops").json["data"]
    assert [(e["actor"], e["action"], e["kind"], e["subject"]) for e in listed] == [
        ("ops", "create", "user", "carol"),
        ("ops", "block", "key", made["key_id"]),
        ("ops", "create", "key", made["key_id"]),
    ]
    assert listed[1]["details"] == {"blocked": [False, True]}
    assert "private" not in str(listed)
    assert made["key"] not in str(listed)
    of_key = http.get("/v1/audit", "sk-ops", subject=made["key_id"], limit="1").json["data"]
    assert [entry["number"] for entry in of_key] == [2]
    earlier = http.get("/v1/audit", "sk-ops", before="2").json["data"]
    assert [entry["number"] for entry in earlier] == [1]
    assert http.get("/v1/audit", "sk-ops", limit="x").status_code == 400
    assert http.get("/v1/audit", "sk-ops", before="x").status_code == 400
    assert http.get("/v1/audit", made["key"]).status_code == 401
    assert http.get("/v1/audit", "sk-alice").status_code == 403


TYPED_ERRORS = [
    ("/v1/chat/completions", CHAT),
    ("/v1/responses", {"input": "Hi"}),
    ("/v1/messages", {**CHAT, "max_tokens": 9}),
    ("/completion", {"prompt": "Hi"}),
]


@pytest.mark.parametrize(("path", "body"), TYPED_ERRORS)
def test_refusals_have_the_form_of_each_api(http: Http, path: str, body: Any) -> None:
    made = http.make(models=["other"])
    forbidden = http.post(path, made["key"], **body)
    kind = forbidden.json["error"]["type"]
    assert (forbidden.status_code, kind) == (403, "permission_error")
    assert ("type" in forbidden.json) == (path == "/v1/messages")
    http.admin("/key/block", key=made["key"])
    blocked = http.post(path, made["key"], **body)
    kind = blocked.json["error"]["type"]
    assert (blocked.status_code, kind) == (401, "authentication_error")
    assert "blocked" in blocked.text
    assert blocked.headers["WWW-Authenticate"].startswith("Bearer")


def test_agent_has_the_tools_that_a_key_may_use(tmp_path: Path) -> None:
    driver = ScriptedDriver()
    http = keyed(driver, tmp_path, chatchat=True, tools=("calculator", "time"))
    question = {"query": "Hi", "stream": False}
    some = http.make(allowed_tools=["calc*"])["key"]
    http.post("/chat/agent_chat", some, **question)
    assert '"calculator"' in str(driver.tasks[-1].prompt)
    assert '"time"' not in str(driver.tasks[-1].prompt)
    none = http.make(allowed_tools=["web_search"])["key"]
    assert "none of the agent's tools" in http.post("/chat/agent_chat", none, **question).text
    searching = {"query": "Hi", "search_engine_name": "ddgs"}
    refused = http.post("/chat/search_engine_chat", some, **searching)
    assert "may not use the tool 'web_search'" in refused.text
