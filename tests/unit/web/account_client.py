"""A client of an application that keeps API keys in its store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flask import Flask

from proxy.config.keys import ApiKey, Secret
from tests.fakes import ScriptedDriver, make_app

KEYS = (ApiKey("ops", Secret("sk-ops")), ApiKey("alice", Secret("sk-alice")))
CHAT = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}]}


class Http:
    def __init__(self, app: Flask) -> None:
        self.app = app
        self.client = app.test_client()

    def post(self, path: str, secret: str, /, **body: Any) -> Any:
        return self.client.post(path, json=body, headers={"Authorization": f"Bearer {secret}"})

    def get(self, path: str, secret: str, /, **query: str) -> Any:
        headers = {"Authorization": f"Bearer {secret}"}
        return self.client.get(path, query_string=query, headers=headers)

    def admin(self, path: str, /, **body: Any) -> Any:
        return self.post(path, "sk-ops", **body)

    def make(self, **body: Any) -> Any:
        made = self.admin("/key/generate", **body)
        assert made.status_code == 200, made.text
        return made.json

    def chat(self, key: str, **more: Any) -> Any:
        return self.post("/v1/chat/completions", key, **CHAT, **more)


def keyed(driver: ScriptedDriver, folder: Path, **settings: Any) -> Http:
    """An application whose administrator makes keys. Wrong ones are not limited."""
    stored = {"file_keys": KEYS, "admins": ("ops",), "data": str(folder), "wrong_keys": 0}
    return Http(make_app(driver, **{**stored, **settings}))
