"""The page that connects other programs: what a reader fills in, copies and finds again."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes import key_file
from tools.processes import Gateway

from .conftest import DESKTOP, PHONE, Open
from .test_chat import until

KEYS = "root sk-root-0123456789\nann sk-ann-0123456789\n"


@pytest.fixture(scope="module")
def locked(start_module_site: Any, tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    keys = key_file(tmp_path_factory.mktemp("keys"), KEYS)
    site: Gateway = start_module_site("--api-key-file", keys, "--admins", "root")
    return site


def opened(site: Gateway, visit: Open, key: str, **how: Any) -> Any:
    page = visit(f"{site.url}/signin?to=/connect", **how)
    page.locator('input[type="password"]').fill(key)
    page.locator("main button").first.click()
    page.locator('.programs a[aria-current="true"]').wait_for()
    return page


def shown(page: Any) -> str:
    text: str = page.locator(".program:visible").inner_text()
    return text


def copied(page: Any, number: int = 0) -> str:
    """The text that a button copies."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    button = page.locator(".program:visible [data-copy]").nth(number)
    button.click()
    until(page, lambda: button.inner_text() in ("Copied", "已复制"))
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


@pytest.mark.parametrize(("size", "language"), [(DESKTOP, "en"), (PHONE, "zh")])
def test_administrator_makes_a_key_and_pastes_a_command_that_works(
    locked: Gateway, visit: Open, accessible: Any, tmp_path: Path, size: Any, language: str
) -> None:
    page = opened(locked, visit, "sk-root-0123456789", size=size, language=language)
    assert "YOUR_KEY" in shown(page)
    page.locator('[data-part="make"] input').fill(f"curl {language}")
    page.locator('[data-part="make"] button').click()
    page.locator('[data-part="told"][data-state="good"]').wait_for()
    key = page.locator('[data-part="key"]').input_value()
    assert key.startswith("sk-") and key in shown(page) and "YOUR_KEY" not in shown(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    accessible(page)
    text = copied(page)
    done = subprocess.run(
        ["bash", "-e"], input=text, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert '"content":' in done.stdout, done.stdout + done.stderr
    stored = page.evaluate("JSON.stringify({...localStorage, ...sessionStorage})")
    assert key not in stored and key not in page.url
    page.reload()
    page.locator('.programs a[aria-current="true"]').wait_for()
    assert key not in page.content()  # it is shown once


def test_second_key_of_the_same_name_says_what_is_wrong(locked: Gateway, visit: Open) -> None:
    page = opened(locked, visit, "sk-root-0123456789")
    for state in ("good", "bad"):
        page.locator('[data-part="make"] input').fill("twice")
        page.locator('[data-part="make"] button').click()
        page.locator(f'[data-part="told"][data-state="{state}"]').wait_for()
    assert "twice" in page.locator('[data-part="told"]').inner_text()


def test_other_readers_paste_a_key_that_stays_in_the_page(locked: Gateway, visit: Open) -> None:
    page = opened(locked, visit, "sk-ann-0123456789")
    assert not page.locator('[data-part="make"]').count()
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url + (request.post_data or "")))
    page.locator('[data-part="key"]').fill("sk-mine-42")
    page.locator('.programs a[href="#claude-code"]').click()
    page.locator('.programs a[aria-current="true"]', has_text="Claude Code").wait_for()
    assert "export ANTHROPIC_AUTH_TOKEN='sk-mine-42'" in shown(page)
    page.locator('[data-part="key"]').fill("it's $HOME")
    assert "YOUR_KEY" in shown(page) and "HOME" not in shown(page)
    assert page.locator('[data-part="told"][data-state="bad"]').inner_text()
    assert [url for url in sent if "/static/" not in url or "sk-mine" in url] == []
    stored = page.evaluate("JSON.stringify({...localStorage, ...sessionStorage})")
    assert "sk-mine-42" not in stored


def test_address_is_that_of_the_browser_and_the_last_program_comes_back(
    site: Gateway, visit: Open
) -> None:
    page = visit(f"{site.url}/connect#codex")
    page.locator('.programs a[aria-current="true"]', has_text="Codex").wait_for()
    assert f'base_url = "{site.url}/v1"' in shown(page)
    assert "SLOTPROXY_API_KEY='anything'" in shown(page)
    model = httpx.get(f"{site.url}/v1/models").json()["data"][0]["id"]
    assert f'model = "{model}"' in shown(page)
    assert "context of this model is too small" in shown(page)  # 2048 tokens
    page.goto(f"{site.url}/connect")
    page.locator('.programs a[aria-current="true"]', has_text="Codex").wait_for()
    page.locator(".programs a", has_text="LangChain").press("Enter")
    page.locator('.programs a[aria-current="true"]', has_text="LangChain").wait_for()
    assert copied(page, 1).startswith("from langchain_openai import ChatOpenAI\n")


def test_chosen_model_comes_back(site: Gateway, visit: Open) -> None:
    page = visit(f"{site.url}/models")

    def with_another(route: Any) -> None:
        option = '<option value="another" data-context="4096">another</option></select>'
        text = route.fetch().text().replace("</select>", option)
        route.fulfill(body=text, content_type="text/html")

    page.route("**/connect", with_another)
    page.goto(f"{site.url}/connect")
    page.locator('[data-part="model"]').select_option("another")
    page.goto(f"{site.url}/models")
    page.goto(f"{site.url}/connect")
    page.locator('.programs a[aria-current="true"]').wait_for()
    assert page.locator('[data-part="model"]').input_value() == "another"
    assert "another" in shown(page)
