"""Static files: compression, caching, and no other files."""

from __future__ import annotations

import gzip
import json
import re

from proxy.web.pages import shell, texts
from tests.fakes import client

from .test_pages_session import BROWSER

NAME = "panels/status.js"


def test_static_file_is_compressed_for_clients_that_accept_it() -> None:
    visitor = client()
    whole = visitor.get(f"/static/{NAME}")
    packed = visitor.get(f"/static/{NAME}", headers={"Accept-Encoding": "gzip, br"})
    assert whole.mimetype == packed.mimetype == "text/javascript"
    assert packed.headers["Content-Encoding"] == "gzip" and "Accept-Encoding" in packed.vary
    assert gzip.decompress(packed.data) == whole.data == (texts.STATIC / NAME).read_bytes()
    refused = visitor.get(f"/static/{NAME}", headers={"Accept-Encoding": "gzip;q=0"})
    assert "Content-Encoding" not in refused.headers


def test_versioned_static_url_is_cached_for_good() -> None:
    visitor = client()
    page = visitor.get("/status", headers={"Accept": "text/html"}).get_data(as_text=True)
    match = re.search(rf'"(/static/{NAME}\?v=\w+)"', page)
    assert match
    cached = visitor.get(match[1])
    assert cached.cache_control.immutable and cached.cache_control.max_age == shell.FOREVER
    for other in (f"/static/{NAME}", f"/static/{NAME}?v=old"):
        assert visitor.get(other).cache_control.no_cache
    etag = {"If-None-Match": cached.headers["ETag"]}
    assert visitor.get(f"/static/{NAME}", headers=etag).status_code == 304


def test_every_page_has_a_content_security_policy() -> None:
    visitor = client()
    for path in ("/status", "/knowledge", "/nowhere"):
        page = visitor.get(path, headers={"Accept": "text/html"})
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert not re.search(r"<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=", page.text)


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
