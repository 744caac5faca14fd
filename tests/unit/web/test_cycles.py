"""Requests leave no reference cycles: their memory is free when they end, and not only when the
garbage collector runs, which may be many requests later."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from proxy.errors import BackendFailed
from tests.fakes import ScriptedDriver, client, say, services_of


def _fail() -> None:
    raise BackendFailed("the backend failed")


def _left_by(work: Callable[[], object]) -> set[str]:
    """The names of our types and functions in what only the garbage collector frees, each time: a
    health check of another test's app may leave something now and then."""
    return set.intersection(*(_left_once(work) for _ in range(3)))


def _left_once(work: Callable[[], object]) -> set[str]:
    gc.collect()
    before = {id(thing) for thing in gc.get_objects()}  # an app may end meanwhile
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        work()
        gc.collect()
        left = (thing for thing in gc.garbage if id(thing) not in before)
        return {name for name in map(_name, left) if name.startswith("proxy.")}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


def _name(item: object) -> str:
    if isinstance(item, FrameType):
        return f"{item.f_globals.get('__name__')}.{item.f_code.co_name}"
    return f"{type(item).__module__}.{type(item).__name__}"


@pytest.mark.parametrize("capture", ["off", "all"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "script",
    [say("Hel", "lo"), [_fail], [*say("Hel", "lo")[:-1], _fail]],
    ids=["whole", "refused", "broken off"],
)
def test_requests_leave_no_reference_cycles(
    script: Any, stream: bool, capture: str, tmp_path: Path
) -> None:
    settings = {"data": str(tmp_path), "ledger_days": 0} if capture == "all" else {}
    http = client(ScriptedDriver(script), continue_broken=False, capture=capture, **settings)
    captures = services_of(http.application).captures
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": stream}

    def ask() -> None:
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.data
        answer.close()
        if captures is not None:
            captures.flush()

    ask()  # makes the lasting objects
    assert _left_by(ask) == set()


def test_other_requests_leave_none_where_all_is_captured(tmp_path: Path) -> None:
    http = client(ScriptedDriver(), capture="all", data=str(tmp_path), ledger_days=0)

    body = {"messages": [{"role": "user", "content": "Hi"}]}

    def look() -> None:
        assert http.get("/v1/models").status_code == 200
        assert http.post("/v1/explain", json=body).status_code == 200

    look()
    assert _left_by(look) == set()
