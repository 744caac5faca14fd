"""What keys, users and teams may do."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.accounts.rights import (
    ALL,
    Permissions,
    Rights,
    matches,
    priority_of,
    wrong_network,
)
from proxy.errors import Forbidden

LETTERS = st.text("ab*", max_size=8)
NAMES = st.text("ab", max_size=10)
MODELS = st.lists(LETTERS.filter(bool), max_size=3).map(tuple)


@given(LETTERS, NAMES)
def test_star_stands_for_any_text(pattern: str, name: str) -> None:
    assert matches(pattern, name) == fnmatchcase(name, pattern)


@pytest.mark.parametrize("pattern", ["[ab]", "?", "a.b", "(a|b)", "\\w"])
def test_other_characters_stand_for_themselves(pattern: str) -> None:
    assert matches(pattern, pattern)
    assert not matches(pattern, "a")


def test_hostile_pattern_takes_no_long_time() -> None:
    assert not matches("a*" * 100 + "b", "a" * 1024)


@given(st.lists(MODELS, max_size=3), NAMES.filter(bool))
def test_all_rights_must_permit_a_model(models: list[tuple[str, ...]], name: str) -> None:
    may = Permissions(tuple(Rights(models=globs) for globs in models))
    each = [not globs or any(fnmatchcase(name, pattern) for pattern in globs) for globs in models]
    assert may.permits_model(name) == all(each)


def test_one_of_the_names_of_a_model_is_enough() -> None:
    may = Permissions((Rights(models=("gpt-4",)),))
    may.check_model("gpt-4", "gpt-4", "qwen3")
    with pytest.raises(Forbidden, match=r"'qwen3' \(asked for as 'gpt-4'\)"):
        # The client asked for an unknown name, which means the only model.
        may.check_model("gpt-4", "qwen3", "qwen3")


@pytest.mark.parametrize(
    ("allowed", "api", "path", "permitted"),
    [
        ("llm_api_routes", "messages", "/v1/messages", True),
        ("llm_api_routes", "files", "/v1/files", False),
        ("management_routes", "admin", "/key/list", True),
        ("info_routes", "status", "/metrics", True),
        ("/v1/files", "files", "/v1/files", True),
        ("/v1/files", "files", "/v1/files/<key>", False),
        ("/v1/files*", "files", "/v1/files/<key>", True),
        ("files", "unknown", "", False),
    ],
)
def test_groups_of_litellm_and_paths_are_known(
    allowed: str, api: str, path: str, permitted: bool
) -> None:
    may = Permissions((Rights(apis=(allowed,)),))
    if permitted:
        may.check_route(api, path, reads=False)
    else:
        with pytest.raises(Forbidden):
            may.check_route(api, path, reads=False)


def test_read_only_key_changes_nothing() -> None:
    may = Permissions((Rights(), Rights(read_only=True)))
    may.check_route("files", "/v1/files", reads=True)
    with pytest.raises(Forbidden, match="read only"):
        may.check_route("files", "/v1/files", reads=False)
    with pytest.raises(Forbidden, match="read only"):
        may.check_route("", "/v1/data", reads=False)


@pytest.mark.parametrize(
    ("networks", "address", "permitted"),
    [
        (("10.0.0.0/8",), "10.1.2.3", True),
        (("10.0.0.0/8",), "11.1.2.3", False),
        (("10.0.0.0/8",), "::ffff:10.1.2.3", True),
        (("10.0.0.1",), "10.0.0.1", True),
        (("2001:db8::/32", "10.0.0.0/8"), "2001:db8::7", True),
        (("0.0.0.0/0",), "2001:db8::7", False),
        (("0.0.0.0/0",), "", False),
        (("0.0.0.0/0",), "unix", False),
        ((), "", True),
    ],
)
def test_key_is_used_from_its_networks(
    networks: tuple[str, ...], address: str, permitted: bool
) -> None:
    may = Permissions((Rights(networks=networks),))
    if permitted:
        may.check_peer(address)
    else:
        with pytest.raises(Forbidden, match="allowed_ips"):
            may.check_peer(address)


def test_lowest_priority_wins() -> None:
    assert priority_of([]) == priority_of([Rights()]) == "normal"
    assert priority_of([Rights(priority="high")]) == "high"
    assert priority_of([Rights(priority="high"), Rights(), Rights(priority="low")]) == "low"


def test_networks_are_told_from_other_text() -> None:
    for text in ("10.0.0.0/8", "10.0.0.7/8", "::1", "2001:db8::/32"):
        assert wrong_network(text) == ""
    for text in ("", "localhost", "10.0.0.0/33", "10.0.0", "x" * 100):
        assert "neither an address nor a network" in wrong_network(text)


def test_tools_of_the_gateway_are_bounded_by_all_rights() -> None:
    may = Permissions((Rights(tools=("web_*", "time")), Rights(), Rights(tools=("*_search",))))
    assert may.permits_tool("web_search")
    assert not may.permits_tool("time")
    may.check_tool("web_search")
    with pytest.raises(Forbidden, match="allowed_tools"):
        may.check_tool("file_search")
    ALL.check_tool("anything")


def test_tiers_that_key_or_team_are_barred_from_add_up() -> None:
    assert ALL.barred_tiers == frozenset()
    may = Permissions((Rights(barred_tiers=("cloud",)), Rights(), Rights(barred_tiers=("far",))))
    assert may.barred_tiers == {"cloud", "far"}
    may.check_tiers("m", {"own", "cloud"})
    may.check_tiers("m", ())
    with pytest.raises(Forbidden, match="barred_tiers"):
        may.check_tiers("m", {"far", "cloud"})
