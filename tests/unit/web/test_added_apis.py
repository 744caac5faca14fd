"""An API of an installed package: an entry point of the group `slotproxy.apis`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from proxy.apis import added
from proxy.config import ApiKey, Secret
from tests.fakes import ScriptedDriver, ledger_of, make_own_app, say

ROUTES = '''
"""A tiny API: POST /shout {"text"} asks the model, and answers in capitals."""

from proxy.apis.openai import chat
from proxy.errors import InvalidParameter
from proxy.web.fastpath import post
from proxy.web.routes import Api
from proxy.web.spine import completion_view


class Shout:
    Encoder = chat.Encoder

    def parse(self, body):
        if type(body.get("text")) is not str:
            raise InvalidParameter("text", "must be a string")
        return chat.parse({"messages": [{"role": "user", "content": body["text"]}]})

    def reply(self, meta, request, completions):
        return {"shout": completions[0].text.upper()}

    def error(self, fault):
        return {"sorry": fault.message}


blueprint = Api(
    "shout",
    __name__,
    group="shout",
    tag="Shout",
    ledger="shout",
    error=Shout().error,
    error_schema="ShoutError",
    owns="/shout",
    schemas={
        "ShoutRequest": {"type": "object", "properties": {"text": {"type": "string"}}},
        "ShoutError": {"type": "object", "properties": {"sorry": {"type": "string"}}},
    },
)


@post(blueprint, "/shout", body="ShoutRequest")
def shout(services, environ):
    """An answer in capitals."""
    return completion_view(services, environ, Shout(), "shout-")
'''
KEYS = (ApiKey("root", Secret("sk-root-0123456789")),)
ROOT = {"Authorization": "Bearer sk-root-0123456789"}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlaskClient]:
    """A gateway beside which a package with an API is installed."""
    site = tmp_path / "site"
    (site / "shout").mkdir(parents=True)
    (site / "shout" / "__init__.py").write_text("")
    (site / "shout" / "routes.py").write_text(ROUTES)
    about = site / "shout-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: shout\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[slotproxy.apis]\nshout = shout.routes\n")
    monkeypatch.syspath_prepend(str(site))
    added.cache_clear()
    data = str(tmp_path / "data")
    yield make_own_app(
        ScriptedDriver(say("hello")), file_keys=KEYS, admins=("root",), data=data
    ).test_client()
    added.cache_clear()


def ask(api: FlaskClient, headers: dict[str, str], **body: Any) -> Any:
    return api.post("/shout", json=body, headers=headers)


def test_added_api_answers_and_has_its_own_errors(api: FlaskClient) -> None:
    assert ask(api, ROOT, text="Hi").json == {"shout": "HELLO"}
    wrong = ask(api, ROOT, text=1)
    assert (wrong.status_code, wrong.json) == (400, {"sorry": "text must be a string"})
    assert "sorry" in (api.get("/shout/else", headers=ROOT).json or {})


def test_added_api_is_a_group_of_rights(api: FlaskClient) -> None:
    def key(*routes: str) -> dict[str, str]:
        made = api.post("/key/generate", json={"allowed_routes": [*routes]}, headers=ROOT)
        return {"Authorization": f"Bearer {made.json['key']}"}

    assert ask(api, key("shout"), text="Hi").status_code == 200
    assert ask(api, key("llm_api_routes"), text="Hi").status_code == 200
    refused = ask(api, key("chat"), text="Hi")
    assert refused.status_code == 403 and "the API 'shout'" in refused.json["sorry"]


def test_added_api_is_named_in_the_ledger_and_described(api: FlaskClient) -> None:
    assert ask(api, ROOT, text="Hi").status_code == 200
    ledger_of(api.application)
    used = api.get("/v1/usage?group_by=api", headers=ROOT).json
    assert [row["api"] for row in used["data"]] == ["shout"]
    document = api.get("/openapi.json", headers=ROOT).json
    assert document["paths"]["/shout"]["post"]["summary"] == "An answer in capitals"
    assert "ShoutRequest" in document["components"]["schemas"]
