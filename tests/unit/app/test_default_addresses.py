"""Where a backend is looked for when none was named."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.app import compose
from proxy.config import Settings, load

FIRST, SECOND = "http://127.0.0.1:8080", "http://127.0.0.1:9931"


@pytest.mark.parametrize("there", [(FIRST,), (SECOND,), (FIRST, SECOND)])
def test_default_address_with_a_server_becomes_a_backend(
    there: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compose, "listens", lambda url: url in there)
    assert tuple(one.url for one in compose.configs(Settings())) == there


def test_bundled_model_is_served_without_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compose, "listens", lambda url: False)
    monkeypatch.setattr(compose, "bundled_instead", lambda file: tmp_path / "m.bin")
    assert [one.name for one in compose.configs(Settings())] == ["embedded"]


def test_both_default_addresses_are_tried_when_nothing_else_can_be_served(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compose, "listens", lambda url: False)
    monkeypatch.setattr(compose, "bundled_instead", lambda file: None)
    assert [one.url for one in compose.configs(Settings())] == [FIRST, SECOND]
    assert f"no model server answers at {FIRST} or {SECOND}: start one, name its" in caplog.text
    assert "run `slotproxy init`" in caplog.text


def test_configured_address_is_not_checked_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose, "listens", lambda url: pytest.fail("it was named"))
    settings = load(["--llama-api", FIRST], {})
    assert [one.url for one in compose.configs(settings)] == [FIRST]
