"""The place of stored responses, by the settings and the installed packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proxy.app import storage
from proxy.app.storage import LazyServices
from proxy.config import Secret, Settings, SettingsError
from proxy.store.responses import MemoryResponses
from tests.fakes import client

ROOT = Path(__file__).resolve().parents[3]


def responses(**settings: Any) -> Any:
    return LazyServices(Settings(**settings), None, None).responses()


def plain_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "are_installed", lambda modules: False)


NOTHING_IMPORTED = """
import sys
from tests.fakes import client

api = client()
made = api.post("/v1/responses", json={"input": "Hi"}).json
assert api.get(f"/v1/responses/{made['id']}").status_code == 200
assert "sqlalchemy" not in sys.modules and "sqlite3" not in sys.modules
"""


NOTHING_OPENED = """
import sys
from tests.fakes import client

api = client(data=sys.argv[1], ledger_days=0)
assert api.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hi"}]}).json
assert "sqlalchemy" not in sys.modules
"""


@pytest.mark.parametrize("program", [NOTHING_IMPORTED, NOTHING_OPENED], ids=["none", "unused"])
def test_database_that_is_not_used_is_not_imported(program: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("setting", ["data", "database"])
def test_responses_in_a_database_outlive_a_restart(setting: str, tmp_path: Path) -> None:
    where = {
        "data": {"data": str(tmp_path)},
        "database": {"database": f"sqlite:///{tmp_path / 'db'}", "data": str(tmp_path / "data")},
    }[setting]
    made: Any = client(**where).post("/v1/responses", json={"input": "Hi"}).json
    after: Any = client(**where).get(f"/v1/responses/{made['id']}").json
    assert after == made


def test_a_data_directory_without_the_extra_leaves_responses_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_install(monkeypatch)
    assert isinstance(responses(data=str(tmp_path)), MemoryResponses)


def test_workers_that_share_a_table_need_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    plain_install(monkeypatch)
    with pytest.raises(SettingsError, match=r"^--state requires the extra redis: .*\[redis\]"):
        responses(state=Secret("redis://127.0.0.1/0"))
