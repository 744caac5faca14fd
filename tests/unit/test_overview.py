"""The table of what is up."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from proxy import overview
from proxy.config import EVERYTHING, load
from proxy.overview import Part
from proxy.web.services import Services
from tests.fakes import ScriptedDriver, make_app, services_of

ADDRESS = "http://127.0.0.1:8081"


def rows(services: Services) -> dict[str, Part]:
    return {part.name: part for part in overview.parts(services, [ADDRESS])}


def made(*drivers: ScriptedDriver, **settings: Any) -> Services:
    services = services_of(make_app(*drivers, **settings))
    return dataclasses.replace(services, knowledge=None)


def test_each_part_tells_whether_it_is_up() -> None:
    told = rows(
        made(
            ScriptedDriver(),
            ScriptedDriver(up=False),
            chatchat=True,
            pages=False,
            api_prefix="/llm",
        )
    )
    assert told["gateway"].where == f"{ADDRESS}/llm (no key needed)"
    assert told["APIs"].where.endswith("Langchain-Chatchat")
    assert told["backend b0"] == Part("backend b0", "up", "scripted, 2 slots")
    assert told["backend b1"] == Part("backend b1", "down", "the backend does not answer")
    assert told["pages"].state == "off"
    assert told["knowledge, jobs"].state == "off" and "pip install" in told["knowledge, jobs"].where


def test_a_database_that_does_not_open_is_down_and_shows_no_password() -> None:
    class Broken:
        def bases(self, owner: str) -> None:
            raise RuntimeError("no such server")

    services = made(ScriptedDriver())
    named = msgspec.structs.replace(services.settings, database="postgresql://me:secret@host/x")
    services = dataclasses.replace(services, settings=named)
    broken = dataclasses.replace(services, knowledge=Broken())  # type: ignore[arg-type]
    assert rows(broken)["knowledge, jobs"].state == "down"

    class Fine:
        def bases(self, owner: str) -> None:
            pass

    fine = dataclasses.replace(services, knowledge=Fine())  # type: ignore[arg-type]
    assert rows(fine)["knowledge, jobs"] == Part("knowledge, jobs", "up", "postgresql")


def test_a_table_stands_in_columns() -> None:
    assert overview.table([Part("a", "up", "x"), Part("long", "down", "y")]) == (
        "  a     up    x\n  long  down  y"
    )


def test_everything_is_turned_on_by_one_setting() -> None:
    settings = load(["--all"], {})
    assert all(getattr(settings, name) is True for name in EVERYTHING)
    assert not load([], {}).chatchat
    assert not load(["--all", "--no-chatchat"], {}).chatchat
    assert not load(["--all"], {"SLOTPROXY_CHATCHAT": "off"}).chatchat
