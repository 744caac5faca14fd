"""/models is the page for browsers, and OpenAI's list for programs."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from tests.fakes import ScriptedDriver, make_app
from tests.unit.web.test_hosting import KEYS, OTHER

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
PROGRAMS = ("*/*", "application/json", "application/json, text/plain, */*", "")


@pytest.fixture
def open_site() -> FlaskClient:
    return make_app(ScriptedDriver()).test_client()


@pytest.fixture
def locked() -> FlaskClient:
    return make_app(ScriptedDriver(), file_keys=KEYS, admins=("admin",)).test_client()


def test_browser_gets_the_page(open_site: FlaskClient) -> None:
    answer = open_site.get("/models", headers={"Accept": BROWSER})
    assert answer.status_code == 200 and answer.mimetype == "text/html"
    assert 'id="models"' in answer.text and 'aria-current="page">Models' in answer.text
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Vary"] == "Accept"


@pytest.mark.parametrize("accept", PROGRAMS)
def test_program_gets_the_list(open_site: FlaskClient, accept: str) -> None:
    answer = open_site.get("/models", headers={"Accept": accept})
    assert answer.json["object"] == "list" and answer.json["data"]
    assert answer.headers["Vary"] == "Accept"


def test_list_under_v1_is_no_page(open_site: FlaskClient) -> None:
    answer = open_site.get("/v1/models", headers={"Accept": BROWSER})
    assert answer.json["object"] == "list" and "Vary" not in answer.headers


def test_program_without_a_header_gets_the_list(open_site: FlaskClient) -> None:
    assert open_site.get("/models").json["object"] == "list"


def test_key_in_a_header_is_a_programs_whatever_it_accepts(locked: FlaskClient) -> None:
    answer = locked.get("/models", headers={"Accept": BROWSER, **OTHER})
    assert answer.json["object"] == "list"
    assert locked.get("/models").status_code == 401


def test_browser_signs_in_and_comes_back(locked: FlaskClient) -> None:
    answer = locked.get("/models", headers={"Accept": BROWSER})
    assert answer.status_code == 302
    assert answer.headers["Location"].endswith("/signin?to=/models")


def test_prefix_is_before_the_page_too() -> None:
    http = make_app(ScriptedDriver(), api_prefix="/llm").test_client()
    answer = http.get("/llm/models", headers={"Accept": BROWSER})
    assert 'href="/llm/models"' in answer.text
    assert http.get("/llm/models").json["object"] == "list"


def test_without_pages_browsers_get_the_list() -> None:
    http = make_app(ScriptedDriver(), pages=False).test_client()
    assert http.get("/models", headers={"Accept": BROWSER}).json["object"] == "list"
