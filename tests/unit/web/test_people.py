"""One key of many people: who a request is for, and what each of them may use."""

from __future__ import annotations

import json
import threading
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from proxy.accounts.records import Bound, StoredKey, identity_of, of_person
from proxy.accounts.rights import Rights
from proxy.config.keys import ApiKey, Secret
from proxy.store import api_keys
from proxy.web import auth, people
from tests.fakes import ScriptedDriver, at_once, ledger_of, make_app, say, services_of, wait_until
from tests.unit.web.account_client import CHAT, Http, keyed
from tests.unit.web.test_pages_chat import Held

NAMES = ("ann", "bob", "carl", "dora", "eve")
CLAUDE = {"device_id": "d17", "account_uuid": "", "session_id": "54c1"}


def openwebui(name: str) -> dict[str, str]:
    """The headers of Open WebUI with ENABLE_FORWARD_USER_INFO_HEADERS."""
    return {
        "X-OpenWebUI-User-Name": quote(f"{name} Müller", safe=" "),
        "X-OpenWebUI-User-Id": f"8d1c-{name}",
        "X-OpenWebUI-User-Email": f"{name}@example.org",
        "X-OpenWebUI-User-Role": "user",
    }


@pytest.fixture
def http(tmp_path: Path) -> Http:
    return keyed(ScriptedDriver(say("Hi")), tmp_path)


def ask(
    http: Http,
    secret: str,
    headers: dict[str, str],
    path: str = "/v1/chat/completions",
    **fields: Any,
) -> Any:
    headers = {"Authorization": f"Bearer {secret}", **headers}
    return http.client.post(path, json={**CHAT, **fields}, headers=headers)


def user_of(http: Http, headers: dict[str, str], **how: Any) -> str:
    """The user in the ledger of a request by a trusted key."""
    key = http.make(trusted_for_users=True)
    assert ask(http, key["key"], headers, **how).status_code == 200
    (row,) = ledger_of(http.app).rows(0, 1 << 60, {"key": [key["key_id"]]})
    return row.user


@pytest.mark.parametrize(
    ("headers", "how", "user"),
    [
        ({}, {}, ""),
        (openwebui("ann"), {"user": "bob"}, "ann@example.org"),
        ({"X-OpenWebUI-User-Id": "8d1c"}, {}, "8d1c"),
        ({"x-litellm-end-user-id": "ann"}, {}, "ann"),
        ({"x-litellm-customer-id": "ann", "x-litellm-end-user-id": "bob"}, {}, "ann"),
        ({}, {"user": "ann"}, "ann"),
        ({}, {"safety_identifier": "ann"}, "ann"),
        ({}, {"user": None, "metadata": {"user_id": "bob"}}, "bob"),
        ({}, {"path": "/v1/messages", "max_tokens": 9, "metadata": {"user_id": "ann"}}, "ann"),
        ({}, {"metadata": {"user_id": json.dumps(CLAUDE)}}, "d17"),
        ({}, {"metadata": {"user_id": "user_ab_account_c_session_57a1"}}, "user_ab_account_c"),
        ({"x-litellm-end-user-id": "Zoë".encode().decode("latin-1")}, {}, "Zoë"),
        # A value that is no name is nobody.
        ({"x-litellm-end-user-id": "x" * (people.LONGEST + 1)}, {}, ""),
        ({"x-litellm-end-user-id": "a\tb"}, {"user": "line\nbreak"}, ""),
        ({"x-litellm-end-user-id": "\xff\xfe"}, {"user": ""}, ""),
    ],
)
def test_person_is_whom_the_client_names(
    http: Http, headers: dict[str, str], how: dict[str, Any], user: str
) -> None:
    assert user_of(http, headers, **how) == user


def test_responses_and_embeddings_name_the_person_too(http: Http) -> None:
    key = http.make(trusted_for_users=True)["key"]
    answer = http.post("/v1/responses", key, input="Hi", user="ann", store=False)
    assert answer.status_code == 200, answer.text
    http.post("/v1/embeddings", key, input="Hi", user="bob")
    assert [row.user for row in ledger_of(http.app).rows(0, 1 << 60)] == ["ann", "bob"]


def test_names_from_other_keys_change_nothing(http: Http) -> None:
    key = http.make(user_id="owner", rpm_limit=2)["key"]
    for name in NAMES[:2]:
        assert ask(http, key, openwebui(name), user=name).status_code == 200
    assert ask(http, key, openwebui("carl")).status_code == 429
    ask(http, "sk-alice", openwebui("ann"))
    users = [row.user for row in ledger_of(http.app).rows(0, 1 << 60)]
    assert users == ["owner", "owner", "owner", ""]
    assert len(http.get("/user/list", "sk-ops").json["users"]) == 1


def test_each_person_has_the_limits_of_the_key(http: Http) -> None:
    key = http.make(trusted_for_users=True, rpm_limit=2)["key"]
    for name in NAMES:
        assert [ask(http, key, openwebui(name)).status_code for _ in range(3)] == [200, 200, 429]
    # A request for nobody has those of the key itself.
    assert [ask(http, key, {}).status_code for _ in range(3)] == [200, 200, 429]


def test_limits_of_a_user_replace_those_of_the_key(http: Http) -> None:
    key = http.make(trusted_for_users=True, rpm_limit=1)["key"]
    ask(http, key, openwebui("ann"))
    assert ask(http, key, openwebui("ann")).status_code == 429
    assert http.admin("/user/update", user_id="ann@example.org", rpm_limit=5).status_code == 200
    assert ask(http, key, openwebui("ann")).status_code == 200
    assert ask(http, key, openwebui("bob")).status_code == 200
    assert ask(http, key, openwebui("bob")).status_code == 429


def test_the_team_of_the_key_bounds_all_people_together(http: Http) -> None:
    http.admin("/team/new", team_id="lab", rpm_limit=3)
    key = http.make(trusted_for_users=True, team_id="lab", rpm_limit=2)["key"]
    codes = [ask(http, key, openwebui(name)).status_code for name in NAMES]
    assert codes == [200, 200, 200, 429, 429]


def test_budget_of_a_person_counts_over_all_keys(http: Http) -> None:
    budget = {"budget_limits": [{"unit": "tokens", "max_budget": 1500}]}
    first = http.make(trusted_for_users=True)["key"]
    second = http.make(user_id="ann@example.org")["key"]
    http.admin("/user/update", user_id="ann@example.org", **budget)
    assert ask(http, first, openwebui("ann"), max_tokens=1200).status_code == 200
    refused = ask(http, second, {}, max_tokens=1495)
    assert (refused.status_code, refused.json["error"]["type"]) == (429, "budget_exceeded")


def test_blocked_person_is_refused_and_others_are_not(http: Http) -> None:
    key = http.make(trusted_for_users=True)["key"]
    ask(http, key, openwebui("ann"))
    http.admin("/user/update", user_id="ann@example.org", blocked=True, models=["x"])
    refused = ask(http, key, openwebui("ann"))
    assert refused.status_code == 401
    assert "the user is blocked" in refused.json["error"]["message"]
    assert ask(http, key, openwebui("bob")).status_code == 200


def test_person_with_rights_is_bound_by_them_however_it_is_named(http: Http) -> None:
    key = http.make(trusted_for_users=True)["key"]
    http.admin("/user/new", user_id="ann", models=["other"], auto_create_key=False)
    http.admin("/user/new", user_id="bob", allowed_routes=["files"], auto_create_key=False)
    assert ask(http, key, {}, user="ann").json["error"]["code"] == "model_forbidden"
    assert ask(http, key, {}, user="bob").json["error"]["code"] == "route_forbidden"
    assert ask(http, key, {}, user="carl").status_code == 200


def test_users_are_made_once_with_what_the_headers_say(http: Http) -> None:
    http.admin("/user/new", user_id="dora", user_email="dora@example.org", auto_create_key=False)
    key = http.make(trusted_for_users=True)
    found = at_once(lambda _: ask(http, key["key"], openwebui("ann")).status_code, 4)
    assert found == [200] * 4
    ask(http, key["key"], openwebui("dora"))
    ann, dora = sorted(http.get("/user/list", "sk-ops").json["users"], key=lambda u: u["user_id"])
    assert (ann["user_id"], ann["user_alias"]) == ("ann@example.org", "ann Müller")
    assert ann["user_email"] == "ann@example.org"
    assert ann["metadata"] == {"role": "user", "made_by": key["key_id"]}
    assert dora["user_id"] == "dora"  # the user with this address
    assert [row.user for row in ledger_of(http.app).rows(0, 1 << 60)][-1] == "dora"


def test_users_that_a_key_makes_are_bounded(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "MOST_PEOPLE", 2)
    key = http.make(trusted_for_users=True, rpm_limit=1)["key"]
    assert [ask(http, key, openwebui(name)).status_code for name in NAMES] == [
        *(200, 200),
        *(200, 429, 429),  # the others share the limits of the key
    ]
    assert len(http.get("/user/list", "sk-ops").json["users"]) == 2
    http.admin("/user/delete", user_ids=["ann@example.org"])
    assert ask(http, key, openwebui("eve")).status_code == 200


def test_key_of_a_file_has_people_without_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "MOST_PEOPLE", 2)
    options = {"trusted_for_users": "true", "rpm_limit": "1"}
    keys = (ApiKey("ui", Secret("sk-ops"), options=options),)
    http = Http(make_app(ScriptedDriver(say("Hi")), file_keys=keys))
    codes = [ask(http, "sk-ops", openwebui(name)).status_code for name in (*NAMES, "ann")]
    assert codes == [200, 200, 200, 429, 429, 429]


def test_person_cannot_be_read_by_naming_it(http: Http) -> None:
    http.make(user_id="ann@example.org")
    key = http.make(trusted_for_users=True)["key"]
    headers = {"Authorization": f"Bearer {key}", **openwebui("ann")}
    for query in ({}, {"user_id": "ann@example.org"}):
        answer = http.client.get("/user/info", query_string=query, headers=headers)
        assert answer.status_code in (403, 404), answer.text


@pytest.mark.parametrize(
    ("key", "user", "group"),
    [("", "", "key k"), ("", "ann", "ann"), ("lab", "", "lab"), ("lab", "ann", "lab")],
)
def test_people_share_the_group_of_the_key_unless_users_have_one(
    key: str, user: str, group: str
) -> None:
    stored = StoredKey(id="k", digest="d", shown="", rights=Rights(group=key))
    person = of_person(identity_of(stored, "d"), "ann", Bound(False, Rights(group=user)))
    assert person.group == group


def test_lowest_priority_of_key_and_person_counts() -> None:
    key = identity_of(StoredKey(id="k", digest="d", shown="", rights=Rights(priority="high")), "d")
    assert of_person(key, "ann").priority == "high"
    assert of_person(key, "ann", Bound(False, Rights(priority="low"))).priority == "low"


def test_people_of_a_key_take_turns(tmp_path: Path) -> None:
    """Ann has three requests in the queue before Bob's first one: his does not come last."""
    driver = Held(slots=1)
    http = keyed(driver, tmp_path)
    key = http.make(trusted_for_users=True)["key"]
    scheduler = services_of(http.app).gateway.scheduler

    def send(name: str) -> None:
        messages = [{"role": "user", "content": name}]
        assert ask(Http(http.app), key, openwebui(name), messages=messages).status_code == 200

    def is_waiting(count: int) -> bool:
        return bool(driver.tasks) and len(scheduler.view(None, "").queue) == count

    threads = []
    for place, name in enumerate(("first", "ann", "ann", "ann", "bob")):
        threads.append(threading.Thread(target=send, args=(name,)))
        threads[-1].start()
        wait_until(partial(is_waiting, place))
    driver.go_on.set()
    for thread in threads:
        thread.join(60)
    served = [task.request.messages[0].content for task in driver.tasks]
    assert sorted(served) == ["ann", "ann", "ann", "bob", "first"]
    assert served.index("bob") <= 2


# -- tags


def test_tags_are_in_the_ledger_and_usage_groups_by_them(http: Http) -> None:
    key = http.make()["key"]
    ask(http, key, {"x-litellm-tags": "prod, team a"}, metadata={"tags": ["jobs", 7, "a,b"]})
    ask(http, key, {"x-slotproxy-tags": "prod"})
    ask(http, key, {})
    assert [row.tags for row in ledger_of(http.app).rows(0, 1 << 60)] == [
        "jobs,prod,team a",
        "prod",
        "",
    ]
    usage = http.get("/v1/usage", key, group_by="tag").json
    assert usage["total"]["requests"] == 3
    counted = {row["tag"]: row["requests"] for row in usage["data"]}
    assert counted == {"": 1, "jobs": 1, "prod": 2, "team a": 1}
    only = http.get("/v1/usage", key, tag="prod").json
    assert only["total"]["requests"] == 2
    assert [(row["model"], row["requests"]) for row in only["data"]] == [("scripted", 2)]
    exported = http.get("/v1/usage/export", key, format="jsonl", tag="jobs").text
    assert [json.loads(line)["tags"] for line in exported.splitlines()] == ["jobs,prod,team a"]


def test_tags_have_bounds() -> None:
    header = {"HTTP_X_LITELLM_TAGS": ",".join(f"t{n}" for n in range(1000))}
    assert len(people.tags_of(header, {}).split(",")) == people.MOST_TAGS
    long = "x" * (people.LONGEST_TAG + 1)
    assert people.tags_of({"HTTP_X_LITELLM_TAGS": long}, {"metadata": {"tags": [long]}}) == ""
    for wrong in ("tags", {"tags": {"a": 1}}, {"tags": "a"}):
        assert people.tags_of({}, {"metadata": wrong}) == ""
