"""The page of models: the data of its script, and the rights of keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from proxy.hosting.host import ModelHost
from proxy.hosting.model import HostedModel
from proxy.web.observability import Record
from proxy.web.pages import models
from proxy.web.services import Services
from tests.fakes import ScriptedDriver, make_app, services_of, wait_until
from tests.unit.hosting import fakes
from tests.unit.web.test_hosting import ADMIN, KEYS, OTHER
from tests.unit.web.test_model_events import seen
from tools import made_up_model

API = "/pages/api/models"


class Site:
    """A gateway with keys and a host of models, which small programs serve."""

    def __init__(self) -> None:
        app = make_app(ScriptedDriver(), file_keys=KEYS, admins=("admin",))
        self.http: FlaskClient = app.test_client()
        self.services: Services = services_of(app)
        self.host: ModelHost = self.services.host
        fake = fakes.fake()
        self.host.hosting.connect = lambda config, url, check: fake(url, check)

    def add(self, name: str, **fields: Any) -> HostedModel:
        return self.host.add(fakes.config(name=name, memory="5MiB", **fields))

    def seen(self, headers: dict[str, str]) -> Any:
        return self.http.get(API, headers=headers).json

    def post(self, action: str, name: str, headers: dict[str, str] = ADMIN) -> int:
        answer = self.http.post(f"{API}/{action}", json={"model": name}, headers=headers)
        return answer.status_code


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.host.close()


def test_page_needs_a_key(site: Site) -> None:
    for path in (API, f"{API}/events", f"{API}/logs/a"):
        assert site.http.get(path).status_code == 401
    assert site.post("load", "a", {}) in (401, 403)


@pytest.mark.parametrize("action", ["load", "unload", "pin", "unpin"])
def test_only_admins_change_models(site: Site, action: str) -> None:
    model = site.add("a")
    assert site.post(action, "a", OTHER) == 403
    assert (model.status, model.pinned) == ("unloaded", False)
    assert site.post(action, "absent") == 404
    assert site.post("explode", "a") == 404
    assert site.http.get(f"{API}/logs/a", headers=OTHER).status_code == 403


def test_others_see_listed_models_and_no_names_of_unlisted_ones(site: Site) -> None:
    site.add("a")
    secret = site.add("secret", unlisted=True)
    fakes.use(secret)
    page = site.seen(OTHER)
    assert (page["admin"], [model["name"] for model in page["models"]]) == (False, ["a"])
    (segment,) = page["room"]["bars"][0]["segments"]
    assert (segment["model"], segment["size"]) == ("", 5 << 20)
    page = site.seen(ADMIN)
    assert (page["admin"], len(page["models"])) == (True, 2)
    assert page["room"]["bars"][0]["segments"][0]["model"] == "secret"
    secret.leave(answered=True)


def test_model_of_a_changed_table_is_shown_once(site: Site) -> None:
    site.add("a", title="Before")
    site.add("b")
    site.add("a", title="After")
    listed = site.seen(ADMIN)["models"]
    assert [(model["name"], model["title"]) for model in listed] == [("a", "After"), ("b", "")]


def test_template_of_a_known_model_is_described(site: Site) -> None:
    registry = site.services.gateway.registry
    wait_until(lambda: registry.ready)
    site.add(registry.models()[0])
    site.add("never loaded")
    profiles = site.seen(OTHER)["profiles"]
    assert profiles["never loaded"] == []
    assert profiles[registry.models()[0]] == [["format", "plain text"]]


def admins_request() -> dict[str, Any]:
    """The environ of a request whose key was checked."""
    environ: dict[str, Any] = {}
    Record.of(environ).key = "admin"
    return environ


def test_stream_has_an_event_for_each_change_only(site: Site) -> None:
    model = site.add("a")
    changes = (lambda: None, lambda: model.pin(True), lambda: None, lambda: None)
    how: Any = {"stream": models._stream, "head": "event: now\ndata: "}
    events = seen(site.services, *changes, environ=admins_request(), **how)
    assert [event["models"][0]["pinned"] for event in events] == [False, True]


def test_stream_ends_so_that_it_delays_no_stop(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.web.stream.LIFE", 0.0)
    answer = site.http.get(f"{API}/events", headers=ADMIN)
    assert answer.content_type == "text/event-stream"
    assert [part.split("\n")[0] for part in answer.text.split("\n\n")] == [
        "retry: 500",
        "event: now",
        "",
    ]


def test_card_says_what_the_file_does(site: Site) -> None:
    weights = made_up_model.cached()
    site.add("a", command=f"sh -c 'exec sleep 60' -m {weights} ${{PORT}}")
    site.add("b", ctx_size=4096)
    with_file, without = site.seen(ADMIN)["models"]
    assert with_file["file"]["size"] == weights.stat().st_size
    assert with_file["file"]["family"] == "llama" and with_file["file"]["context"] > 0
    assert with_file["context"] is None  # before the first load
    assert (without["file"], without["context"]) == (None, 4096)


def test_only_admins_see_the_log_of_a_failure_as_it_is(site: Site) -> None:
    site.host.hosting.connect = lambda config, url, check: fakes.SilentServer(url, check)
    model = site.add("a", command=fakes.FAILS)
    assert site.post("load", "a") == 204
    wait_until(lambda: model.status == "failed")
    (seen_by_admin,), (seen_by_other,) = (site.seen(who)["models"] for who in (ADMIN, OTHER))
    assert seen_by_admin["failure"]["lines"] == "no such file: /home/me/x.gguf at 127.0.0.1:8080"
    assert seen_by_other["failure"]["lines"] == "no such file: … at …"
