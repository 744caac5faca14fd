"""The table of what is up."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from proxy.app import report
from proxy.app.report import Part
from proxy.config import EVERYTHING, load
from proxy.web.services import Services
from tests.fakes import ScriptedDriver, make_app, services_of

ADDRESS = "http://127.0.0.1:8081"


def rows(services: Services) -> dict[str, Part]:
    return {part.name: part for part in report.parts(services, [ADDRESS])}


def made(*drivers: ScriptedDriver, **settings: Any) -> Services:
    services = services_of(make_app(*drivers, **settings))
    return dataclasses.replace(services, knowledge=None)


def test_overview_shows_whether_each_part_is_up() -> None:
    told = rows(
        made(
            ScriptedDriver(),
            ScriptedDriver(up=False),
            chatchat=True,
            pages=False,
            api_prefix="/llm",
        )
    )
    assert told["gateway"].where == f"{ADDRESS}/llm (no API key required)"
    assert told["APIs"].where.endswith("Langchain-Chatchat")
    assert told["backend b0"] == Part("backend b0", "up", "scripted, 2 slots")
    assert told["backend b1"] == Part("backend b1", "down", "the backend is not responding")
    assert told["pages"].state == "off"
    assert told["knowledge, jobs"].state == "off" and "pip install" in told["knowledge, jobs"].where


def test_unreachable_database_is_down_and_shows_no_password() -> None:
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


def test_table_is_printed_in_columns() -> None:
    assert report.table([Part("a", "up", "x"), Part("long", "down", "y")]) == (
        "  a     up    x\n  long  down  y"
    )


def test_one_setting_enables_everything() -> None:
    settings = load(["--all"], {})
    assert all(getattr(settings, name) is True for name in EVERYTHING)
    assert not load([], {}).chatchat
    assert not load(["--all", "--no-chatchat"], {}).chatchat
    assert not load(["--all"], {"SLOTPROXY_CHATCHAT": "off"}).chatchat
