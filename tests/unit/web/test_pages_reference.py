"""The page with the API reference, and the links to it."""

from __future__ import annotations

import gzip
from pathlib import Path

from proxy.web.pages import connect, guard
from tests.fakes import ScriptedDriver, client
from tests.unit.web.account_client import keyed
from tests.unit.web.test_pages_session import BROWSER, sign_in


def test_reference_needs_no_key_and_names_no_model_without_one(tmp_path: Path) -> None:
    http = keyed(ScriptedDriver(), tmp_path)
    visitor = http.app.test_client()
    page = visitor.get("/docs", headers=BROWSER)
    assert page.status_code == 200
    assert 'data-document="/openapi.json"' in page.text and 'data-model=""' in page.text
    assert visitor.get("/openapi.json").status_code == 200
    sign_in(visitor, "sk-alice")
    assert 'data-model="scripted"' in visitor.get("/docs", headers=BROWSER).text


def test_policy_of_the_reference_is_its_own_and_allows_no_script_in_the_page() -> None:
    visitor = client(ScriptedDriver())
    policy = visitor.get("/docs", headers=BROWSER).headers["Content-Security-Policy"]
    assert policy == connect.REFERENCE_POLICY
    assert "script-src 'self';" in policy and "unsafe-eval" not in policy
    assert "connect-src 'self';" in policy and "http" not in policy
    others = visitor.get("/status", headers=BROWSER).headers["Content-Security-Policy"]
    assert others == guard.POLICY and "unsafe" not in others


def test_unknown_addresses_and_the_document_point_to_the_reference() -> None:
    for prefix in ("", "/llm"):
        visitor = client(ScriptedDriver(), api_prefix=prefix)
        answer = visitor.get(f"{prefix}/v1")
        assert answer.status_code == 404
        message = answer.get_json()["error"]["message"]
        assert message == f"no such route: {prefix}/v1 (see {prefix}/docs)"
        page = visitor.get(f"{prefix}/v1", headers=BROWSER).text
        assert f'href="{prefix}/docs"' in page
        document = visitor.get(f"{prefix}/openapi.json").get_json()
        assert document["externalDocs"]["url"] == f"{prefix}/docs"


def test_without_pages_they_point_to_the_document() -> None:
    visitor = client(ScriptedDriver(), pages=False)
    assert visitor.get("/docs").status_code == 404
    message = visitor.get("/v1").get_json()["error"]["message"]
    assert message == "no such route: /v1 (see /openapi.json)"


def test_document_is_compressed_for_who_can_read_it() -> None:
    visitor = client(ScriptedDriver())
    plain = visitor.get("/openapi.json")
    packed = visitor.get("/openapi.json", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.data) == plain.data
    assert len(packed.data) * 4 < len(plain.data)
