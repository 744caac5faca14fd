"""Downloads for a build are the expected files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import building, servers


def test_archive_with_another_digest_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: object, **__: object) -> None:
        (tmp_path / "llama_cpp_python-0.2.20.tar.gz").write_bytes(b"another file")

    monkeypatch.setattr(servers, "run", download)
    with pytest.raises(building.BuildError, match="is not the expected file"):
        servers.fetch(servers.RECIPES["llama-2023"], tmp_path, tmp_path / "log")
