"""What we keep can be read by the user of the process alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.config import load
from proxy.config.data_folder import FILES
from proxy.runtime import private_files
from tests.fakes import client, wait_until

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")


@pytest.fixture(autouse=True)
def usual_mask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: mode(path) for path in folder.iterdir()}


def test_stored_files_are_private(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    to = client(data=str(folder))
    assert to.post("/v1/vector_stores", json={"name": "x"}).status_code == 200
    files = modes(folder)
    assert {"slotproxy.db", "slotproxy.db-wal", "index.db"} <= set(files)
    assert set(files.values()) == {0o600}
    assert mode(folder) == 0o700


def test_permissions_of_older_files_are_narrowed_at_start(tmp_path: Path) -> None:
    names = [f"{name}{suffix}" for name in FILES for suffix in private_files.BESIDE]
    for name in names:
        (tmp_path / name).touch(0o644)
    client(data=str(tmp_path))
    wait_until(lambda: set(modes(tmp_path).values()) == {0o600})


def test_folder_is_narrowed_only_without_foreign_content(tmp_path: Path) -> None:
    for name, expected in (("slotproxy.db-wal", 0o700), ("letters.txt", 0o755)):
        folder = tmp_path / name
        folder.mkdir(0o755)
        (folder / name).touch()
        private_files.folder(folder, FILES)
        assert mode(folder) == expected


def test_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.touch(0o644)
    (tmp_path / "slotproxy.db-wal").symlink_to(other)
    private_files.narrow(tmp_path / "slotproxy.db")
    assert mode(other) == 0o644


def test_world_readable_key_file_is_warned_of(tmp_path: Path) -> None:
    keys, toml = tmp_path / "keys", tmp_path / "s.toml"
    keys.write_text("sk-1\n")
    toml.write_text('[search]\nbrave_key = "sk-2"\n')
    flags = ["--api-key-file", str(keys), "--config", str(toml)]
    for wide, count in ((0o644, 2), (0o640, 0), (0o600, 0)):
        keys.chmod(wide)
        toml.chmod(wide)
        warnings = load(flags, {}).warnings
        assert len(warnings) == count
        assert all("chmod o-r" in warning and "sk-" not in warning for warning in warnings)
    toml.write_text('metrics = true\n[[backend]]\nurl = "http://h:1"\napi_key = "sk-3"\n')
    toml.chmod(0o644)
    assert str(toml) in load(flags, {}).warnings[0]
    toml.write_text("metrics = true\n")
    assert load(flags, {}).warnings == ()


def test_key_on_a_command_line_is_warned_of() -> None:
    (warning,) = load(["--api-key", "sk-1"], {}).warnings
    assert warning == (
        "--api-key is visible to every user of this machine (ps); use SLOTPROXY_API_KEY or "
        "--api-key-file"
    )
    assert load([], {"SLOTPROXY_API_KEY": "sk-1"}).warnings == ()
    assert load(["--state", "redis://host/0"], {}).warnings == ()
    (warning,) = load(["--state", "redis://:sk-1@host/0"], {}).warnings
    assert "SLOTPROXY_STATE" in warning and "sk-1" not in warning


def test_home_is_expanded_in_files_and_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    toml = tmp_path / "s.toml"
    toml.write_text('data = "~/kept"\n')
    settings = load(["--config", "~/s.toml"], {})
    assert settings.data == str(tmp_path / "kept")
    assert load([], {"SLOTPROXY_DATA": "~/x"}).data == str(tmp_path / "x")
