"""Functions of other packages: found by entry point, called in a child, ended when given up on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from proxy.agent.functions import ToolError
from proxy.agent.toolbox import Toolbox
from proxy.errors import UpstreamFault
from proxy.runtime.cancel import Cancel

SOURCE = '''
import os

def shout(text: str, times: int = 1) -> str:
    """Say it loudly"""
    print("printed, and no answer")
    return text.upper() * times

def broken() -> str:
    raise RuntimeError("it broke")

def dies() -> str:
    os._exit(3)

def keys() -> list[str]:
    return [name for name in os.environ if name.startswith("SLOTPROXY_")]
'''
NAMES = ("shout", "broken", "dies", "keys")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with tools, as one that was installed."""
    (tmp_path / "made_up_tools.py").write_text(SOURCE)
    meta = tmp_path / "made_up_tools-1.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up-tools\nVersion: 1\n")
    lines = [f"{name} = made_up_tools:{name}" for name in NAMES]
    (meta / "entry_points.txt").write_text("\n".join(["[slotproxy.tools]", *lines, ""]))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("SLOTPROXY_API_KEY", "secret")
    yield


@pytest.fixture
def box(package: None) -> Iterator[Toolbox]:
    toolbox = Toolbox(NAMES, clock=time.monotonic, now=datetime.now)
    yield toolbox
    toolbox.close()


def test_function_is_described_called_and_its_errors_are_reported(box: Toolbox) -> None:
    tools = box.tools()
    assert sorted(tools) == sorted(NAMES)
    shout = tools["shout"].tool
    assert shout.description == "Say it loudly"
    assert shout.parameters["required"] == ["text"]
    assert shout.parameters["properties"]["times"] == {"type": "integer", "default": 1}

    def call(name: str, **arguments: object) -> str:
        return tools[name].call(arguments, Cancel(), 60)

    assert call("shout", text="ho", times=2) == "HOHO"
    assert call("keys") == "[]", "the gateway's own settings are not for strangers"
    with pytest.raises(ToolError, match="RuntimeError: it broke"):
        call("broken")
    with pytest.raises(ToolError, match="Expected `int`"):
        call("shout", text="ho", times="x")
    with pytest.raises(ToolError, match="unknown field"):
        call("shout", text="ho", loud=True)
    with pytest.raises(UpstreamFault, match="exited without a result"):
        call("dies")
    assert call("shout", text="again") == "AGAIN", "another child stands in"


def test_only_allowed_functions_are_available(package: None) -> None:
    box = Toolbox(["time", "shout"], clock=time.monotonic, now=lambda: datetime(2026, 11, 21, 7, 5))
    assert sorted(box.tools()) == ["shout", "time"]
    assert "2026-11-21 07:05:00" in box.tools()["time"].call({}, Cancel(), 1)
    box.close()
    assert not Toolbox([], clock=time.monotonic, now=datetime.now)
