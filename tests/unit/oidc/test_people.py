"""What claims mean for the user, the team and the rights of a person."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.accounts.records import KEY_ID
from proxy.config import OidcConfig
from proxy.errors import Forbidden
from proxy.oidc.service import LONGEST, MOST_GROUPS, claim, person

ISSUER = "https://id.example.org"
CLAIMS: dict[str, Any] = {
    "sub": "1",
    "email": "carol@example.org",
    "email_verified": True,
    "groups": ["staff", "ops"],
}


def mapped(**more: Any) -> OidcConfig:
    return OidcConfig(**more)


def test_key_id_belongs_to_the_subject_of_the_issuer() -> None:
    ids = {
        person(issuer, {**CLAIMS, "sub": subject}, mapped()).key_id
        for issuer, subject in ((ISSUER, "1"), (ISSUER, "2"), (ISSUER + "/", "1"), (ISSUER, "1"))
    }
    assert len(ids) == 3
    assert all(KEY_ID.fullmatch(key_id) for key_id in ids)


def test_claims_name_user_teams_and_administrators() -> None:
    rules = mapped(team_claim="groups", admins=("groups=ops",))
    carol = person(ISSUER, CLAIMS, rules)
    assert (carol.user, carol.teams, carol.admin) == ("carol@example.org", ["staff", "ops"], True)
    assert person(ISSUER, {**CLAIMS, "groups": "staff"}, rules).admin is False
    assert person(ISSUER, CLAIMS, mapped()).admin is None


def test_one_of_the_allowed_claims_suffices() -> None:
    rules = mapped(allow=("groups=lab", "groups=staff"))
    assert person(ISSUER, CLAIMS, rules).subject == "1"
    for groups in ([], None, "staffers", ["STAFF"], {"staff": True}):
        with pytest.raises(Forbidden, match="may not use this gateway"):
            person(ISSUER, {**CLAIMS, "groups": groups}, rules)


@pytest.mark.parametrize("email", [None, "", 7, ["a@b"], "a\nb", "x" * (LONGEST + 1)])
def test_user_without_a_usable_id_is_refused(email: Any) -> None:
    with pytest.raises(Forbidden, match="no usable 'email'"):
        person(ISSUER, {**CLAIMS, "email": email}, mapped())


@pytest.mark.parametrize("verified", [False, "false", None, "", "True!"])
def test_address_that_is_not_verified_names_no_user(verified: Any) -> None:
    with pytest.raises(Forbidden, match="is verified"):
        person(ISSUER, {**CLAIMS, "email_verified": verified}, mapped())
    claims = {**CLAIMS, "email_verified": verified}
    assert person(ISSUER, claims, mapped(user_claim="sub")).user == "1"


def test_address_that_is_not_verified_gives_no_rights() -> None:
    boss = f"email={CLAIMS['email']}"
    chosen = {**CLAIMS, "email_verified": False}
    assert person(ISSUER, chosen, mapped(user_claim="sub", admins=(boss,))).admin is False
    assert person(ISSUER, CLAIMS, mapped(user_claim="sub", admins=(boss,))).admin is True
    with pytest.raises(Forbidden, match="may not use this gateway"):
        person(ISSUER, chosen, mapped(user_claim="sub", allow=(boss,)))


def test_number_of_groups_is_bounded() -> None:
    groups = [f"g{n}" for n in range(MOST_GROUPS + 5)]
    carol = person(ISSUER, {**CLAIMS, "groups": groups}, mapped(team_claim="groups"))
    assert len(carol.teams) == MOST_GROUPS


def test_claim_may_be_inside_another_one() -> None:
    claims = {"realm": {"roles": ["a"]}, "https://a.b/groups": ["c"]}
    assert claim(claims, "realm.roles") == ["a"]
    assert claim(claims, "https://a.b/groups") == ["c"]
    assert claim(claims, "realm.none.at.all") is None
    assert claim({"realm": "text"}, "realm.roles") is None
