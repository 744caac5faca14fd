"""Routes whose requests are forwarded, without a server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient

from proxy.apis.media.routes import MAX_QUERY
from proxy.hosting.model import HostedModel
from tests.fakes import ScriptedDriver, make_app, services_of
from tests.unit.hosting import fakes


@pytest.fixture
def app() -> Iterator[tuple[FlaskClient, HostedModel]]:
    app = make_app(ScriptedDriver())
    host = services_of(app).host
    fake = fakes.fake()
    host.hosting.connect = lambda config, url, check: fake(url, check)
    model = host.add(fakes.config(name="scripted"))
    yield app.test_client(), model
    model.close()
    model.join(60)


@pytest.mark.parametrize(
    "query", ["x" * (MAX_QUERY + 1), "a=b c", "a=\u00e9"], ids=["long", "space", "not ASCII"]
)
def test_query_is_bounded(app: tuple[FlaskClient, HostedModel], query: str) -> None:
    http, model = app
    answer = http.get("/upstream/scripted/x", environ_overrides={"QUERY_STRING": query})
    assert answer.status_code == 400
    assert model.status == "unloaded"


def test_model_of_chats_has_no_other_api(app: tuple[FlaskClient, HostedModel]) -> None:
    http, _ = app
    answer = http.post("/v1/audio/speech", json={"model": "scripted", "input": "x"})
    assert (answer.status_code, "does not support" in answer.text) == (400, True)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "model is missing: name a model whose server"),
        ({"model": ""}, 400, "model is missing: name a model whose server"),
        ({"model": "other"}, 404, "'other' does not exist"),
    ],
)
def test_model_must_be_named(
    app: tuple[FlaskClient, HostedModel], body: dict[str, str], status: int, words: str
) -> None:
    http, _ = app
    posted = http.post("/v1/images/generations", json=body)
    listed = http.get("/v1/audio/voices", query_string=body)
    for answer in (posted, listed):
        error = answer.json["error"]
        assert (answer.status_code, error["param"]) == (status, "model")
        assert words in error["message"]
