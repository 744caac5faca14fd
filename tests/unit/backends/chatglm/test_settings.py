"""Settings of ChatGLM models, and when the bundled one is served."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from proxy.backends.chatglm import driver
from proxy.config import Settings, SettingsError, load
from tests.unit.backends.chatglm.test_driver import model_file


def names(settings: Settings) -> list[tuple[str, str, str]]:
    return [(one.name, one.kind, one.url or one.file) for one in settings.backends]


def test_model_replaces_the_default_address() -> None:
    settings = load(["--chatglm-model", "/m/a.bin", "--chatglm-model", "b.bin"], {})
    assert names(settings) == [("a", "chatglm", "/m/a.bin"), ("b", "chatglm", "b.bin")]
    assert not settings.is_default


def test_model_is_served_beside_named_addresses() -> None:
    settings = load(["--chatglm-model", "a.bin", "--llama-api", "http://127.0.0.1:1"], {})
    assert [one[1] for one in names(settings)] == ["auto", "chatglm"]


def test_models_are_read_from_the_config_file(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(
        "[[backend]]\nfile = 'a.bin'\nmodel = 'glm'\nctx_size = 64\n"
        "[[backend]]\nfile = 'b.bin'\n[[backend]]\nurl = 'http://127.0.0.1:1'\n"
    )
    settings = load(["--config", str(file)], {})
    assert [one[1] for one in names(settings)] == ["chatglm", "chatglm", "auto"]
    assert (settings.backends[0].model, settings.backends[0].ctx_size) == ("glm", 64)


@pytest.mark.parametrize(
    "table",
    ["url = 'http://127.0.0.1:1'\nfile = 'a.bin'", "file = 'a.bin'\n[[backend]]\nfile='a.bin'"],
)
def test_invalid_models_in_the_config_file_are_refused(tmp_path: Path, table: str) -> None:
    file = tmp_path / "s.toml"
    file.write_text(f"[[backend]]\n{table}\n")
    with pytest.raises(SettingsError, match=r"not both|two backends"):
        load(["--config", str(file)], {})


def test_several_workers_have_no_model_of_their_own() -> None:
    several = ["--workers", "2", "--state", "redis://127.0.0.1"]
    with pytest.raises(SettingsError, match="each would load the ChatGLM model"):
        load([*several, "--chatglm-model", "a.bin"], {})
    assert load(several, {}).workers == 2


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


@pytest.mark.usefixtures("installed")
def test_bundled_model_needs_its_file(tmp_path: Path) -> None:
    assert driver.bundled_instead(tmp_path / "m.bin") is None


def test_missing_library_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    file = model_file(tmp_path / "m.bin")
    assert driver.bundled_instead(file) is None
    why = driver.missing(str(file))
    assert re.search(r"^chatglm_cpp is not installed: .*pip install .*\[chatglm\]", why)
