"""The manifest, with which browsers install the pages."""

from __future__ import annotations

import json
import re

from tests.fakes import client

from .test_pages_session import BROWSER


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
