"""The manifest, with which browsers install the pages."""

from __future__ import annotations

import json
import re

from tests.fakes import client

from .test_pages_session import BROWSER


def test_manifest_names_icons_that_exist() -> None:
    visitor = client()
    page = visitor.get("/status", headers=BROWSER).text
    match = re.search(r'<link rel="manifest" href="(/static/app\.webmanifest[^"]*)"', page)
    assert match
    manifest = visitor.get(match[1])
    assert manifest.mimetype == "application/manifest+json"
    fields = json.loads(manifest.data)
    assert fields["start_url"] == fields["scope"] == "../" and fields["display"] == "standalone"
    assert {row["sizes"] for row in fields["icons"]} == {"any", "192x192", "512x512"}
    for icon in fields["icons"]:
        answer = visitor.get(f"/static/{icon['src']}")
        assert answer.status_code == 200 and answer.mimetype == icon["type"]
