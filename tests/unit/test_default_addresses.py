"""Where a backend is looked for when none was named."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy import app
from proxy.config import Settings, load

FIRST, SECOND = "http://127.0.0.1:8080", "http://127.0.0.1:9931"


@pytest.mark.parametrize("there", [(FIRST,), (SECOND,), (FIRST, SECOND)])
def test_each_default_address_where_a_server_listens_is_a_backend(
    there: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "listens", lambda url: url in there)
    assert tuple(one.url for one in app._configs(Settings())) == there


def test_the_bundled_model_is_served_where_no_server_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "listens", lambda url: False)
    monkeypatch.setattr(app, "bundled_instead", lambda file: tmp_path / "m.bin")
    assert [one.name for one in app._configs(Settings())] == ["embedded"]


def test_both_addresses_are_looked_at_where_nothing_else_can_be_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app, "listens", lambda url: False)
    monkeypatch.setattr(app, "bundled_instead", lambda file: None)
    assert [one.url for one in app._configs(Settings())] == [FIRST, SECOND]


def test_an_address_that_was_named_is_not_looked_at_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app, "listens", lambda url: pytest.fail("it was named"))
    settings = load(["--llama-api", FIRST], {})
    assert [one.url for one in app._configs(settings)] == [FIRST]
