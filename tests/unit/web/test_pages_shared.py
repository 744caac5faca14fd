"""Conversations that are shared by link."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from proxy.config import keys as api_keys
from proxy.store import conversations
from tests.fakes import ScriptedDriver, client, say, services_of

from .test_pages_chat import API, KEYED, Page


def messages_of(answer: Any) -> Any:
    match = re.search(r'data-part="shared">(.*?)</script>', answer.get_data(as_text=True))
    assert match is not None
    return json.loads(match[1])


class Sharing(Page):
    def share(self, leaf: str) -> Any:
        return self.post(f"/conversations/{self.talk}/links", {"leaf": leaf})

    def links(self) -> Any:
        return self.client.get(f"{API}/conversations/{self.talk}/links", headers=KEYED).json


def test_link_shows_the_branch_as_it_was_and_nothing_private(tmp_path: Path) -> None:
    page = Sharing(ScriptedDriver(say("</script><b>Paris</b>")), tmp_path)
    image = {"name": "a.png", "url": "data:image/png;base64,AA=="}
    extra: Any = {"images": [image]}
    question = page.store.add("", page.talk, "user", "Capital?", extra=extra)
    private = {"sources": [{"text": "PRIVATE"}], "steps": [{"text": "PRIVATE"}], "model": "m"}
    answer = page.store.add("", page.talk, "assistant", "", question.id, "growing", private)
    page.store.append(answer.id, "</script><b>Paris</b>", "PRIVATE")
    page.store.finish(answer.id, "done")
    page.store.add("", page.talk, "assistant", "Another branch", question.id)
    made = page.share(answer.id)
    assert made.status_code == 201 and len(made.json["id"]) >= 22
    page.store.add("", page.talk, "user", "Later", answer.id)
    seen = page.client.get(f"/shared/{made.json['id']}", headers={"Accept": "text/html"})
    assert messages_of(seen) == [
        {"role": "user", "content": "Capital?", "model": "", "images": [image]},
        {"role": "assistant", "content": "</script><b>Paris</b>", "model": "m", "images": []},
    ]
    assert "PRIVATE" not in seen.get_data(as_text=True)
    assert "Set-Cookie" not in seen.headers
    assert seen.headers["X-Robots-Tag"] == "noindex, nofollow"
    assert seen.headers["Referrer-Policy"] == "no-referrer"
    assert seen.headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in seen.headers["Content-Security-Policy"]


def test_link_is_revoked_and_deleted_with_its_conversation(tmp_path: Path) -> None:
    page = Sharing(ScriptedDriver(say("Paris")), tmp_path)
    page.ask()
    leaf = page.over()["id"]
    first, second = (page.share(leaf).json["id"] for _ in range(2))
    assert {link["id"] for link in page.links()} == {first, second} and first != second
    address = f"{API}/links/{first}"
    assert page.client.delete(address).status_code == 403  # without a token
    assert page.client.delete(address, headers=KEYED).status_code == 204
    assert page.client.delete(address, headers=KEYED).status_code == 404
    assert page.client.get(f"/shared/{first}").status_code == 404
    assert page.client.get(f"/shared/{second}").status_code == 200
    page.client.delete(f"{API}/conversations/{page.talk}", headers=KEYED)
    assert page.client.get(f"/shared/{second}").status_code == 404


def test_links_of_a_key_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "MOST_SHARED", 1)
    page = Sharing(ScriptedDriver(say("Paris")), tmp_path)
    page.ask()
    leaf = page.over()["id"]
    assert [page.share(leaf).status_code for _ in range(2)] == [201, 403]
    assert len(page.links()) == 1


def test_size_of_a_copy_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "LARGEST", 100)
    page = Sharing(ScriptedDriver(say("Paris" * 30)), tmp_path)
    page.ask()
    assert page.share(page.over()["id"]).status_code == 400
    assert page.links() == []


def test_message_of_another_conversation_is_not_shared(tmp_path: Path) -> None:
    page = Sharing(ScriptedDriver(say("Paris")), tmp_path)
    page.ask()
    leaf = page.over()["id"]
    page.talk = page.post("/conversations").json["id"]
    assert page.share(leaf).status_code == 400
    assert page.share("").status_code == 400


@pytest.mark.parametrize(
    ("options", "allowed"), [("", False), (" share=true", True)], ids=["key", "with the right"]
)
def test_keys_need_the_right_to_share(tmp_path: Path, options: str, allowed: bool) -> None:
    def served(lines: str, admins: tuple[str, ...] = ("root",)) -> FlaskClient:
        keys = api_keys.read(lines, "keys.txt")
        return client(ScriptedDriver(), data=str(tmp_path), file_keys=keys, admins=admins)

    lines = f"root sk-root\nann sk-ann{options}\n"
    to = served(lines)
    store = services_of(to.application).conversations
    if store is None:
        pytest.skip("the extra knowledge is not installed")

    def shares(owner: str, secret: str) -> Any:
        talk = store.create(owner).id
        leaf = store.add(owner, talk, "user", "Hi").id
        headers = {"Authorization": f"Bearer {secret}"}
        where = f"{API}/conversations/{talk}/links"
        return to.post(where, json={"leaf": leaf}, headers=headers)

    assert shares("root", "sk-root").status_code == 201
    made = shares("ann", "sk-ann")
    if not allowed:
        assert made.status_code == 403 and made.json["error"]["code"] == "share_forbidden"
        return
    address = f"/shared/{made.json['id']}"
    assert to.get(address).status_code == 200
    assert served("root sk-root\nann sk-ann\n").get(address).status_code == 404
    assert served("root sk-root\n").get(address).status_code == 404
