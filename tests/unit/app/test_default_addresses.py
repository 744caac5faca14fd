"""Where a backend is looked for when none was named."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from proxy.app import compose, discovery, doctor
from proxy.backends.chatglm import driver
from proxy.config import Settings, load

FIRST, SECOND = "http://127.0.0.1:8080", "http://127.0.0.1:9931"
NOTHING = "nothing is configured, and no model server answers at 127.0.0.1:8080 or 127.0.0.1:9931"


@pytest.mark.parametrize("there", [(FIRST,), (SECOND,), (FIRST, SECOND)])
def test_default_address_with_a_server_becomes_a_backend(
    there: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compose, "listens", lambda url: url in there)
    assert tuple(backend.url for backend in compose.configs(Settings())) == there


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any server, GGUF file or llama-server, but with chatglm_cpp."""
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_CACHE_HOME", "HF_HOME", "LLAMA_CACHE", "PATH"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(compose, "listens", lambda url: False)
    monkeypatch.setattr(doctor, "listens", lambda url: False)
    monkeypatch.setattr(driver, "bundled_instead", lambda file: tmp_path / "m.bin")
    monkeypatch.setattr(discovery, "PORTS", ())
    return tmp_path


def models(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "mine.gguf").write_bytes(b"GGUF" + bytes(1 << 17))
    return folder


def test_bundled_model_is_served_where_nothing_else_is(bare: Path) -> None:
    assert [backend.name for backend in compose.configs(Settings())] == ["embedded"]


def test_toy_is_not_served_to_whoever_has_models_or_a_settings_file(
    bare: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written = Settings(config_file="slotproxy.toml")
    assert [backend.url for backend in compose.configs(written)] == [FIRST, SECOND]
    assert caplog.messages == [
        f"{NOTHING}: start a model server, or name its address with --llama-api URL"
    ]
    emptied = Settings(models_dir=str(bare))
    assert [backend.url for backend in compose.configs(emptied)] == [FIRST, SECOND]
    folder = models(bare / "models")
    assert [backend.url for backend in compose.configs(Settings())] == [FIRST, SECOND]
    assert caplog.messages[-1] == (
        f"{NOTHING}: to serve the GGUF files in {folder}, set --models-dir {folder}"
        ' --llama-server "/path/to/llama-server -c 4096"'
    )


def test_the_remedy_for_models_that_are_there_works(bare: Path) -> None:
    folder = models(bare / "models")
    (bare / "llama-server").touch(mode=0o755)
    remedy = discovery.remedy(os.environ, bare)
    assert remedy == f"to serve the GGUF files in {folder}, set --models-dir {folder}"
    settings = load(shlex.split(remedy.partition("set ")[2]), {})
    assert [backend.name for backend in settings.backends] == ["mine"]


def test_models_that_no_folder_setting_finds_are_for_init(bare: Path) -> None:
    models(bare / "hub" / "models--org--mine" / "snapshots" / "abc")
    assert discovery.remedy(os.environ, bare).endswith(
        "put llama-server on the PATH, then run `slotproxy init`, which lists them"
    )


@pytest.mark.parametrize("file", ["", "slotproxy.toml"])
@pytest.mark.parametrize("has_models", [False, True])
def test_doctor_says_that_nothing_is_configured(bare: Path, file: str, has_models: bool) -> None:
    if has_models:
        models(bare / "models")
    settings = Settings(config_file=file, data=str(bare), local_embeddings=False)
    findings = {finding.about: finding for finding in doctor.examine(settings)}
    finding = findings.pop("backends")
    assert finding.text.startswith(NOTHING)
    assert ("--models-dir" if has_models else "--llama-api") in finding.remedy
    assert "init" not in finding.remedy  # which may have led here
    is_toy = not (file or has_models)
    assert finding.level == ("advice" if is_toy else "problem")
    assert ("backend embedded" in findings) == is_toy
    assert not any(about.startswith("backend 127") for about in findings)


def test_configured_address_is_not_checked_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose, "listens", lambda url: pytest.fail("it was named"))
    settings = load(["--llama-api", FIRST], {})
    assert [backend.url for backend in compose.configs(settings)] == [FIRST]
