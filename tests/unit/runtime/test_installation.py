"""The command that adds an extra, by the way in which slotproxy was installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shlex
import sys
from pathlib import Path

import pytest

from proxy.runtime import installation
from proxy.runtime.installation import install

WHEEL = "file:///home/ann/slotproxy-1.0-py3-none-any.whl"
GIT = {"url": "https://example.org/slotproxy.git", "vcs_info": {"vcs": "git", "commit_id": "1"}}


class Distribution:
    def __init__(self, origin: object) -> None:
        self._origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return json.dumps(self._origin) if self._origin else None


@pytest.mark.parametrize(
    ("origin", "requirement"),
    [
        ({"url": WHEEL, "archive_info": {}}, f"slotproxy[knowledge] @ {WHEEL}"),
        (GIT, "slotproxy[knowledge] @ git+https://example.org/slotproxy.git"),
        ({}, "slotproxy[knowledge]"),
        (None, "slotproxy[knowledge]"),
    ],
)
def test_installed_package_is_installed_again_from_where_it_came(
    origin: object, requirement: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def distribution(name: str) -> Distribution:
        if origin is None:
            raise importlib.metadata.PackageNotFoundError
        return Distribution(origin)

    monkeypatch.setattr(installation, "_ROOT", tmp_path)
    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    assert shlex.split(install("knowledge"))[-1] == requirement


def test_checkout_is_installed_with_this_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    *command, requirement = shlex.split(install("redis"))
    assert command[-2:] == ["pip", "install"]
    assert command[0] == sys.executable
    folder = Path(requirement.removesuffix("[redis]"))
    assert (folder / "setup.cfg").is_file()


def test_environment_without_pip_has_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert install("oidc").startswith(f"uv pip install --python {sys.executable} ")


def test_single_file_is_packed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["./slotproxy.pyz", "--port", "1"])
    assert install("knowledge") == "make zipapp EXTRAS=knowledge"
