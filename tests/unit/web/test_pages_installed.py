"""The service worker of the pages, the page without a connection, and the manifest."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from proxy.web.pages import texts, uploads
from tests.fakes import client

from .test_pages_session import BROWSER, LOCKED, token_of


def shell_of(visitor: Any, spoken: str = "en") -> dict[str, Any]:
    """The files that the service worker keeps."""
    script = visitor.get(f"/service-worker-{spoken}.js")
    assert script.mimetype == "text/javascript" and script.cache_control.no_cache
    head = script.get_data(as_text=True).partition("\n")[0]
    found = re.fullmatch(r"self\.SHELL = (\{.*\});", head)
    assert found
    shell: dict[str, Any] = json.loads(found[1])
    return shell


@pytest.mark.parametrize("spoken", texts.LANGUAGES)
def test_service_worker_keeps_files_with_digests_and_a_page_in_its_language(spoken: str) -> None:
    visitor = client()
    shell = shell_of(visitor, spoken)
    page = visitor.get(shell["page"], headers=BROWSER)
    assert texts.words(spoken, "offline.title") in page.text
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    for address in shell["files"]:
        kept = visitor.get(address)
        assert kept.status_code == 200 and kept.cache_control.immutable, address
    wanted = {one for one in re.findall(r'(?:src|href|data-texts)="(/static/[^"#]+)', page.text)}
    assert {one for one in wanted if "webmanifest" not in one} <= {*shell["files"]}


def test_changed_files_change_the_service_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    before = shell_of(client())["name"]
    assert shell_of(client())["name"] == before
    real = uploads.find

    def changed(name: str) -> uploads.PageFile | None:
        file = real(name)
        return file and file._replace(digest="0" * 16) if name == "shell.css" else file

    monkeypatch.setattr(uploads, "find", changed)
    assert shell_of(client())["name"] != before


def test_what_the_service_worker_keeps_is_the_same_for_every_user() -> None:
    with client(**LOCKED) as visitor:
        before = visitor.get("/offline/en", headers=BROWSER).text, shell_of(visitor)
        token = token_of(visitor.get("/signin", headers=BROWSER))
        visitor.post("/signin", data={"key": "sesame", "csrf_token": token}, headers=BROWSER)
        assert "data-worker" in visitor.get("/status", headers=BROWSER).text
        assert (visitor.get("/offline/en", headers=BROWSER).text, shell_of(visitor)) == before
        assert "csrf" not in before[0] and "data-worker" not in before[0]


def test_manifest_names_icons_that_exist() -> None:
    visitor = client()
    page = visitor.get("/status", headers=BROWSER).text
    found = re.search(r'<link rel="manifest" href="(/static/app\.webmanifest[^"]*)"', page)
    assert found
    manifest = visitor.get(found[1])
    assert manifest.mimetype == "application/manifest+json"
    told = json.loads(manifest.data)
    assert told["start_url"] == told["scope"] == "../" and told["display"] == "standalone"
    assert {one["sizes"] for one in told["icons"]} == {"any", "192x192", "512x512"}
    for icon in told["icons"]:
        answer = visitor.get(f"/static/{icon['src']}")
        assert answer.status_code == 200 and answer.mimetype == icon["type"]
