"""The page of keys, users and teams in a browser: made, copied, changed, blocked and deleted."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.fakes import key_file
from tools.processes import Gateway

from .conftest import DESKTOP, PHONE, Open

ROOT = "sk-root-0123456789"
HEADERS = {"Authorization": f"Bearer {ROOT}"}


@pytest.fixture(scope="module")
def locked(start_module_site: Any, tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    keys = key_file(tmp_path_factory.mktemp("keys"), f"root {ROOT}\nann sk-ann-0123456789\n")
    site: Gateway = start_module_site("--api-key-file", keys, "--admins", "root")
    return site


def opened(site: Gateway, visit: Open, at: str = "", key: str = ROOT, **how: Any) -> Any:
    page = visit(f"{site.url}/signin?to=/keys{at.replace('#', '%23')}", **how)
    page.locator('input[type="password"]').fill(key)
    page.locator("main button").first.click()
    page.locator("#accounts, .error-page").wait_for()
    return page


def press(page: Any, label: str) -> None:
    page.get_by_role("button", name=label, exact=True).click()


def state(page: Any, name: str, text: str) -> Any:
    card = page.locator(".record", has=page.get_by_role("heading", name=name, exact=True))
    card.locator(".state", has_text=text).wait_for()
    return card


def posted(site: Gateway, path: str, **body: Any) -> Any:
    answer = httpx.post(f"{site.url}{path}", json=body, headers=HEADERS, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def status(site: Gateway, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.get(f"{site.url}/v1/models", headers=headers, timeout=60).status_code


def copied(page: Any) -> str:
    """The key that the dialog shows once."""
    dialog = page.locator('dialog[data-part="made"]')
    dialog.wait_for()
    secret: str = dialog.get_by_label("API key").input_value()
    press(page, "Copy")
    dialog.get_by_text("Copied.").wait_for()
    press(page, "Close")
    assert not dialog.is_visible()
    assert secret not in page.content()
    return secret


def test_key_is_made_with_rights_changed_renewed_blocked_and_deleted(
    locked: Gateway, visit: Open
) -> None:
    page = opened(locked, visit)
    page.on("dialog", lambda dialog: dialog.accept())
    press(page, "New key")
    form = page.locator('dialog[data-form="keys"]')
    form.get_by_role("textbox", name="Name").fill("laptop")
    form.locator('[name="user_id"]').select_option("+")
    form.get_by_label("Id of the new user").fill("carol")
    form.get_by_label("Expires").select_option("30d")
    form.get_by_text("Rights", exact=True).click()
    form.get_by_label("Models", exact=True).fill("qwen*\nsmol")
    form.get_by_label("chat", exact=True).check()
    form.get_by_label("Other groups and paths").fill("/v1/models")
    form.get_by_label("Priority").select_option("low")
    form.get_by_label("Conversations that are too long").select_option("compact")
    press(page, "Save")
    secret = copied(page)
    assert status(locked, secret) == 200
    facts = state(page, "laptop", "active").locator(".facts").inner_text()
    assert "qwen*, smol" in facts
    assert "chat, /v1/models" in facts
    assert "compact" in facts
    assert "carol" in facts

    assert "not in 90 days" in facts  # no model was asked

    press(page, "Edit laptop")
    form.wait_for()
    assert form.get_by_role("textbox", name="Name").input_value() == "laptop"
    assert form.locator('[name="user_id"]').input_value() == "carol"
    form.get_by_text("Rights", exact=True).click()
    assert form.get_by_label("Models", exact=True).input_value() == "qwen*\nsmol"
    assert form.get_by_label("chat", exact=True).is_checked()
    assert form.get_by_label("Conversations that are too long").input_value() == "compact"
    assert form.get_by_label("Other groups and paths").input_value() == "/v1/models"
    form.get_by_label("Client addresses").fill("10.0.0.0/8 or so")
    press(page, "Save")
    form.get_by_role("alert").get_by_text("neither an address nor a network").wait_for()
    form.get_by_label("Client addresses").fill("10.0.0.0/8")
    form.get_by_label("Models", exact=True).fill("")
    press(page, "Save")
    state(page, "laptop", "active").get_by_text("10.0.0.0/8").wait_for()
    assert "qwen*" not in state(page, "laptop", "active").inner_text()
    assert status(locked, secret) == 403
    press(page, "Edit laptop")
    form.get_by_text("Rights", exact=True).click()
    form.get_by_label("Client addresses").fill("")
    press(page, "Save")
    form.wait_for(state="hidden")

    press(page, "New secret laptop")
    page.get_by_label("The old key stays valid").select_option("1h")
    press(page, "Make a new key")
    renewed = copied(page)
    assert renewed != secret
    assert status(locked, renewed) == status(locked, secret) == 200
    press(page, "Block laptop")
    state(page, "laptop", "blocked")
    assert status(locked, renewed) == 401
    press(page, "Unblock laptop")
    state(page, "laptop", "active")
    assert status(locked, renewed) == 200
    press(page, "Delete laptop")
    page.locator(".record", has_text="laptop").wait_for(state="detached")
    assert status(locked, renewed) == 401
    page.get_by_role("link", name="Changes").click()
    page.get_by_text("root deleted the key").first.wait_for()
    assert secret not in page.content()


def test_limits_and_budgets_are_set_shown_and_removed(locked: Gateway, visit: Open) -> None:
    posted(locked, "/team/new", team_id="limited", limits={"tokens": {"day": 5}}, max_budget=7)
    page = opened(locked, visit, "#teams")
    state(page, "limited", "active").get_by_text("5 tokens a day").wait_for()
    press(page, "Edit limited")
    form = page.locator('dialog[data-form="teams"]')
    form.locator("summary").get_by_text("Limits and budgets").click()
    assert form.get_by_label("All tokens, a day").input_value() == "5"
    assert form.get_by_label("Budget", exact=True).input_value() == "7"
    form.get_by_label("All tokens, a day").fill("")
    form.get_by_label("Requests, a minute").fill("30")
    form.get_by_label("Parallel requests").fill("2")
    form.get_by_label("Budget", exact=True).fill("")
    press(page, "Add a budget")
    press(page, "Add a budget")
    row = form.locator(".row").first
    row.get_by_label("Unit").select_option("slot_seconds")
    row.get_by_label("At most").fill("3600.5")
    row.get_by_label("Period").select_option("1d")
    press(page, "Save")
    facts = state(page, "limited", "active").locator(".facts")
    facts.get_by_text("30 requests a minute, 2 in parallel").wait_for()
    assert "3,600.5" in facts.inner_text()
    answer = httpx.get(f"{locked.url}/team/info?team_id=limited", headers=HEADERS).json()
    team = answer["team_info"]
    assert team["limits"] == {"requests": {"minute": 30}}
    assert (team["max_budget"], team["max_parallel_requests"]) == (None, 2)
    (budget,) = team["budget_limits"]
    assert (budget["unit"], budget["max_budget"]) == ("slot_seconds", 3600.5)
    assert budget["budget_duration"] == "1d"
    press(page, "Edit limited")
    form.locator("summary").get_by_text("Limits and budgets").click()
    assert form.locator(".row").get_by_label("At most").input_value() == "3600.5"
    press(page, "Remove")
    form.get_by_label("Parallel requests").fill("")
    press(page, "Save")
    facts.get_by_text("2 in parallel").wait_for(state="detached")
    assert "slot seconds" not in facts.inner_text()
    posted(locked, "/team/delete", team_ids=["limited"])


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_knowledge_bases_and_limits_of_models_are_set_shown_and_removed(
    locked: Gateway, visit: Open, size: tuple[int, int]
) -> None:
    made = posted(
        locked,
        "/key/generate",
        key_alias="kiosk",
        allowed_knowledge_bases=["handbook"],
        model_limits={"__proto__": {"tokens": {"day": 7}}},
        rpm_limit=90,
    )
    page = opened(locked, visit, size=size)
    facts = state(page, "kiosk", "active").locator(".facts")
    facts.get_by_text("90 requests a minute, 7 tokens a day of __proto__").wait_for()
    facts.get_by_text("handbook", exact=True).wait_for()
    press(page, "Edit kiosk")
    form = page.locator('dialog[data-form="keys"]')
    form.get_by_text("Rights", exact=True).click()
    assert form.get_by_label("Knowledge bases").input_value() == "handbook"
    form.get_by_label("Knowledge bases").fill("handbook\nfaq-*")
    form.locator("summary").get_by_text("Limits and budgets").click()
    row = form.locator(".row").first
    assert row.get_by_label("Model, or pattern").input_value() == "__proto__"
    assert row.get_by_label("At most").input_value() == "7"
    press(page, "Add a model limit")
    row = form.locator(".row").nth(1)
    row.get_by_label("Model, or pattern").fill("qwen*")
    row.get_by_label("At most").fill("30")
    row.get_by_label("Period").select_option("hour")
    press(page, "Save")
    facts.get_by_text("30 requests an hour of qwen*").wait_for()
    facts.get_by_text("handbook, faq-*").wait_for()
    answer = httpx.get(f"{locked.url}/key/info", params={"key": made["token"]}, headers=HEADERS)
    assert answer.json()["info"]["model_limits"] == {
        "__proto__": {"tokens": {"day": 7}},
        "qwen*": {"requests": {"hour": 30}},
    }
    assert answer.json()["info"]["limits"] == {"requests": {"minute": 90}}
    press(page, "Edit kiosk")
    form.locator("summary").get_by_text("Limits and budgets").click()
    for _ in range(2):
        form.get_by_role("button", name="Remove").first.click()
    press(page, "Save")
    facts.get_by_text("of qwen*").wait_for(state="detached")
    posted(locked, "/key/delete", keys=[made["token"]])


def test_users_and_teams_are_made_and_deleted_with_their_keys(locked: Gateway, visit: Open) -> None:
    page = opened(locked, visit, "#users")
    page.on("dialog", lambda dialog: dialog.accept())
    press(page, "New user")
    form = page.locator('dialog[data-form="users"]')
    form.get_by_label("User id").fill("dave")
    form.get_by_label("Email").fill("dave@example.org")
    press(page, "Save")
    state(page, "dave", "active").get_by_text("dave@example.org").wait_for()
    page.get_by_role("navigation", name="Lists").get_by_role("link", name="Teams").click()
    press(page, "New team")
    form = page.locator('dialog[data-form="teams"]')
    form.get_by_label("Team id").fill("lab")
    form.get_by_role("textbox", name="Name").fill("Laboratory")
    press(page, "Save")
    key = posted(locked, "/key/generate", key_alias="of-dave", user_id="dave", team_id="lab")
    press(page, "Keys Laboratory")
    state(page, "of-dave", "active")
    assert page.locator(".record").count() == 1
    page.go_back()
    press(page, "Block Laboratory")
    state(page, "Laboratory", "blocked")
    assert status(locked, key["key"]) == 401
    press(page, "Delete Laboratory")
    page.locator(".record", has_text="Laboratory").wait_for(state="detached")
    page.goto(f"{locked.url}/keys#users")
    press(page, "Delete dave")
    page.locator(".record", has_text="dave").wait_for(state="detached")
    assert status(locked, key["key"]) == 401


def test_many_keys_are_searched_and_turned_page_by_page(locked: Gateway, visit: Open) -> None:
    names = [f"bulk-{n:02}" for n in range(30)]
    for name in names:
        posted(locked, "/key/generate", key_alias=name)
    page = opened(locked, visit)
    page.get_by_label("Search").fill("BULK-")
    page.locator('.records[aria-busy="false"]').wait_for()
    page.get_by_text("Page 1 of 2").wait_for()
    assert page.locator(".record").count() == 25
    press(page, "Next")
    page.get_by_text("Page 2 of 2").wait_for()
    assert page.locator(".record").count() == 5
    press(page, "Previous")
    page.get_by_text("Page 1 of 2").wait_for()
    page.get_by_label("Search").fill("bulk-07")
    page.locator('.records[aria-busy="false"] .record:only-child').wait_for()
    state(page, "bulk-07", "active")
    page.get_by_label("Search").fill("100%")
    page.get_by_text("No results.").wait_for()
    page.get_by_role("link", name="Changes").click()
    press(page, "Next")
    page.locator('.records[aria-busy="false"] .change').nth(4).wait_for()
    assert page.get_by_role("button", name="Previous").is_enabled()
    posted(locked, "/key/delete", key_aliases=names)


def test_person_gets_a_key_by_an_invitation_once(
    locked: Gateway, visit: Open, accessible: Any
) -> None:
    posted(locked, "/team/new", team_id="guests", team_alias="Guests")
    page = opened(locked, visit)
    press(page, "Invite a person")
    form = page.locator('dialog[data-form="keys"]')
    press(page, "Make the link")
    assert form.locator('[name="key_alias"]:invalid').count()  # a name is required
    assert form.locator('[name="user_id"]').input_value() == "+"  # a new user of the same name
    form.get_by_role("textbox", name="Name").fill("erins-key")
    assert form.get_by_label("Id of the new user").input_value() == "erins-key"
    form.get_by_label("Id of the new user").fill("erin")
    form.locator('[name="team_id"]').select_option("guests")
    accessible(page)
    press(page, "Make the link")
    made = page.locator('dialog[data-part="made"]')
    link = made.get_by_label("Link").input_value()
    assert link.startswith(f"{locked.url}/invitation#inv-")
    made.get_by_text("This link works only on this machine").wait_for()
    accessible(page)
    press(page, "Close")
    card = state(page, "erins-key", "invited")
    assert card.get_by_role("button").all_inner_texts() == ["Delete"]

    guest = visit(link)  # another browser, not signed in
    accessible(guest)
    press(guest, "Get my key")
    guest.get_by_text("Welcome, erins-key.").wait_for()
    key = guest.get_by_label("API key").input_value()
    assert guest.locator("code").inner_text() == f"{locked.url}/v1"
    assert status(locked, key) == 200
    assert "#" not in guest.url
    accessible(guest)
    press(guest, "Sign in")
    guest.wait_for_url(f"{locked.url}/")

    late = visit(link)
    press(late, "Get my key")
    late.get_by_text("has been used or has expired").wait_for()
    page.reload()
    state(page, "erins-key", "active").locator(".facts").get_by_text("guests").wait_for()
    page.get_by_role("link", name="Changes").click()
    page.get_by_text("invitation issued the key").wait_for()
    page.get_by_text("root invited somebody with the key").wait_for()
    posted(locked, "/user/delete", user_ids=["erin"])
    posted(locked, "/team/delete", team_ids=["guests"])
