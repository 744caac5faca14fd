"""What models needed, kept in a database."""

from __future__ import annotations

import time

import pytest

from proxy.store import measured_memory
from proxy.store.database import Database
from proxy.store.measured_memory import MeasuredMemory


def test_last_needs_are_kept(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = MeasuredMemory(database)
    monkeypatch.setattr(measured_memory, "MOST", 2)
    for number in range(4):
        monkeypatch.setattr(time, "time", lambda now=number: float(now))
        needs.keep(str(number), {})
    needs.keep("3", {"memory": 1 << 40})
    values = [needs.recall(str(number)) for number in range(4)]
    assert values == [None, None, {}, {"memory": 1 << 40}]
