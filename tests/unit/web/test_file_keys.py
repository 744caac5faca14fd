"""Rights and limits of the keys in the key file, over HTTP, and a changed file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from proxy.app import reload
from proxy.config import Settings, SettingsError, load
from tests.fakes import ScriptedDriver, make_app, make_own_app, say, services_of
from tests.unit.web.account_client import CHAT, Http
from tests.unit.web.test_pages_session import BROWSER, sign_in

PLAIN = "ops sk-ops\n"


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Settings]:
    """Writes the key file and reads the settings."""

    def read(lines: str, *flags: str) -> Settings:
        path = tmp_path / "keys"
        path.write_text(PLAIN + lines, encoding="utf-8")
        return load(["--api-key-file", str(path), "--admins", "ops", *flags], {})

    return read


@pytest.fixture
def start(read: Callable[..., Settings]) -> Callable[..., Http]:
    def start(lines: str, **more: Any) -> Http:
        keys = read(lines).file_keys
        return Http(make_app(ScriptedDriver(say("Hi")), file_keys=keys, admins=("ops",), **more))

    return start


def _reloadable(settings: Settings) -> Flask:
    """An app of these keys whose backend stays at a reload."""
    app = make_own_app(
        ScriptedDriver(say("Hi")), file_keys=settings.file_keys, admins=settings.admins
    )
    services_of(app).gateway.registry.reload = lambda *args: None  # type: ignore[method-assign]
    return app


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ("models=other,qw*", "models"),
        ("allowed_routes=messages,/v1/files*", "allowed_routes"),
        ("allowed_ips=10.0.0.0/8,::2", "allowed_ips"),
        ("read_only=true", "read only"),
    ],
)
def test_rights_of_the_file_bound_a_key(
    start: Callable[..., Http], options: str, refused: str
) -> None:
    http = start(f"ann sk-ann {options}\nbob sk-bob models=scri*,x allowed_ips=127.0.0.1\n")
    answer = http.chat("sk-ann")
    assert answer.status_code == 403, answer.text
    assert refused in answer.json["error"]["message"]
    assert http.chat("sk-bob").status_code == http.chat("sk-ops").status_code == 200


def test_limits_of_the_file_bound_a_key(start: Callable[..., Http]) -> None:
    limits = 'rpm_limit=2 limits={"tokens":{"day":99999}} model_rpm_limit={"scripted":1}'
    http = start(f"ann sk-ann {limits} max_budget=20 budget_duration=30d\n")
    first = http.chat("sk-ann")
    assert first.headers["x-ratelimit-limit-requests"] == "1"
    assert first.headers["x-ratelimit-limit-tokens"] == "99999"
    assert http.chat("sk-ann").status_code == 429
    assert "x-ratelimit-limit-requests" not in http.chat("sk-ops").headers


def test_group_and_priority_stay_with_other_options(read: Callable[..., Settings]) -> None:
    (_, ann) = read("ann sk-ann group=lab models=a,b priority=low\n").keys
    assert (ann.cache_group, ann.priority, ann.options) == ("lab", "low", {"models": "a,b"})
    (_, key) = read("sk-only= models=a\n").keys
    assert (str(key.secret), key.options) == ("sk-only=", {"models": "a"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("modles=a", "modles is not an option of a key: use admin"),
        ("rpm_limit=many", "rpm_limit must be a number, or JSON without spaces"),
        ("rpm_limit=", "rpm_limit must be a number"),
        ("read_only=yes", "read_only must be true or false"),
        ("limits={}}", "limits must be a number, or JSON"),
        ('limits={"words":{}}', "limits may have only requests"),
        ("allowed_routes=chatt", "allowed_routes has 'chatt'"),
        ("allowed_ips=localhost", "allowed_ips is wrong"),
        ("budget_duration=9d max_budget=1", "budget_duration must be one of"),
        ("models=", "models is empty"),
        ("allowed_ips=,", "allowed_ips is empty"),
        ("rpm_limit=1 rpm_limit=2", "rpm_limit is there twice"),
        ("priority=urgent", "expected KEY or NAME KEY"),
        ("more words", "expected KEY or NAME KEY"),
    ],
)
def test_wrong_option_names_its_line(
    read: Callable[..., Settings], options: str, message: str
) -> None:
    with pytest.raises(SettingsError) as wrong:
        settings = read(f"# team\nann sk-secret-ann {options}\n")
        make_app(ScriptedDriver(), file_keys=settings.file_keys, admins=("ops",))
    text = str(wrong.value)
    assert "line 3" in text and message.removesuffix("admin") in text
    assert "sk-secret" not in text


def test_option_is_no_name(read: Callable[..., Settings]) -> None:
    with pytest.raises(SettingsError, match="line 2: expected KEY or NAME KEY"):
        read("models=tiny sk-ann\n")


def test_reload_reads_the_key_file_again(read: Callable[..., Settings]) -> None:
    began = read("ann sk-ann\nbob sk-bob models=other\n")
    app = _reloadable(began)
    http = Http(app)
    assert [http.chat(f"sk-{name}").status_code for name in ("ann", "bob", "eve")] == [
        200,
        403,
        401,
    ]
    reload(app, read("ann sk-ann rpm_limit=1\nbob sk-new\neve sk-eve\n"))
    keys = ["sk-ann", "sk-ann", "sk-bob", "sk-new", "sk-eve", "sk-ops"]
    assert [http.chat(key).status_code for key in keys] == [200, 429, 401, 200, 200, 200]


def test_key_that_a_reload_added_signs_in_to_the_pages(read: Callable[..., Settings]) -> None:
    app = _reloadable(read("ann sk-ann\n"))
    reload(app, read("ann sk-ann\neve sk-eve\n"))
    visitor = app.test_client()
    assert sign_in(visitor, "sk-eve").status_code == 303
    assert visitor.get("/status").status_code == 200
    reload(app, read("ann sk-ann\n"))
    assert visitor.get("/status", headers=BROWSER).status_code == 302


def test_wrong_file_changes_nothing_at_a_reload(read: Callable[..., Settings]) -> None:
    began = read("ann sk-ann models=other\n")
    app = _reloadable(began)
    http = Http(app)
    with pytest.raises(SettingsError, match="line 2"):
        reload(app, read("ann sk-ann modles=x\n"))
    assert http.chat("sk-ann").status_code == 403


def test_first_group_of_keys_needs_a_restart(tmp_path: Path) -> None:
    def settings(text: str) -> Settings:
        (tmp_path / "keys").write_text(text, encoding="utf-8")
        return load(["--api-key-file", str(tmp_path / "keys")], {})

    alone = settings("ann sk-ann\n")
    app = _reloadable(alone)
    for text in ("ann sk-ann\nbob sk-bob\n", "ann sk-ann\nbob sk-bob group=x\n"):
        with pytest.raises(SettingsError, match="restart"):
            reload(app, settings(text))
    with pytest.raises(SettingsError, match="restart"):
        reload(app, Settings())
    assert Http(app).post("/v1/chat/completions", "sk-bob", **CHAT).status_code == 401
    reload(app, settings("ann sk-other\n"))
    assert Http(app).chat("sk-other").status_code == 200
