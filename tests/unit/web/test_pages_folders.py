"""Folders of conversations on the chat page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.web.pages import chat
from tests.fakes import ScriptedDriver

from .test_pages_chat import API, KEYED, Page


class Filed(Page):
    def talk_in(self, folder: str, title: str) -> str:
        made: str = self.post("/conversations").json["id"]
        self.put(f"/conversations/{made}", {"title": title, "folder": folder})
        return made

    def put(self, path: str, body: Any) -> Any:
        return self.client.put(API + path, json=body, headers=KEYED)

    def titles(self, **query: str) -> list[str]:
        talks = self.client.get(f"{API}/conversations", query_string=query, headers=KEYED).json
        return [talk["title"] for talk in talks]

    def folders(self) -> Any:
        return self.client.get(f"{API}/folders", headers=KEYED).json


def test_conversations_are_listed_by_folder_and_searched_in_all(tmp_path: Path) -> None:
    page = Filed(ScriptedDriver(), tmp_path)
    page.put(f"/conversations/{page.talk}", {"title": "Tides"})
    page.talk_in(" Sea  life ", "Whales")
    moved = page.talk_in("Sky", "Clouds")
    assert page.folders() == ["Sea life", "Sky"]
    assert page.titles(folder="") == ["Tides"]
    assert page.titles(folder="Sea life") == ["Whales"]
    assert page.titles(search="Clouds") == ["Clouds"]
    assert sorted(page.titles()) == ["Clouds", "Tides", "Whales"]
    page.put(f"/conversations/{moved}", {"pinned": True})
    changed = page.put(f"/conversations/{moved}", {"folder": ""}).json
    assert changed["settings"] == {"pinned": True, "folder": ""} and page.folders() == ["Sea life"]


def test_folder_is_renamed_merged_and_dissolved(tmp_path: Path) -> None:
    page = Filed(ScriptedDriver(), tmp_path)
    for title, folder in (("A", "One"), ("B", "One"), ("C", "Two")):
        page.talk_in(folder, title)
    assert page.put("/folders", {"folder": "One", "name": "Two"}).status_code == 204
    assert page.folders() == ["Two"] and sorted(page.titles(folder="Two")) == ["A", "B", "C"]
    page.put("/folders", {"folder": "Two", "name": ""})
    assert page.folders() == [] and len(page.titles(folder="")) == 4
    assert page.put("/folders", {"folder": "", "name": "All"}).status_code == 400


def test_folders_are_bounded_and_exports_keep_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "MOST_FOLDERS", 2)
    page = Filed(ScriptedDriver(), tmp_path)
    talk = page.talk_in("One", "A")
    page.talk_in("Two", "B")
    for bad in ("Three", "x" * 61, "a\x07b"):
        assert page.put(f"/conversations/{talk}", {"folder": bad}).status_code == 400
    page.store.add("", talk, "user", "Hi")
    exported = page.client.get(f"{API}/conversations/{talk}/export?as=json", headers=KEYED).json
    again = page.post("/conversations/import", exported).json
    assert again["settings"]["folder"] == "One"
    exported["settings"]["folder"] = "Three"
    assert "folder" not in page.post("/conversations/import", exported).json["settings"]
