"""What models needed, kept in a database."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("sqlalchemy", reason="the extra `knowledge` is not installed")

from proxy.store import model_needs
from proxy.store.database import Database
from proxy.store.model_needs import ModelNeeds


def test_need_is_found_by_another_process(url: str) -> None:
    database = Database(url)
    database.upgrade()
    needs = ModelNeeds(database)
    assert needs.recall("a") is None
    needs.keep("a", {"memory": 1})
    needs.keep("a", {"memory": 1 << 40})
    database.close()
    other = Database(url)
    assert ModelNeeds(other).recall("a") == {"memory": 1 << 40}
    other.close()


def test_number_of_kept_needs_is_bounded(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(url)
    database.upgrade()
    needs = ModelNeeds(database)
    monkeypatch.setattr(model_needs, "MOST", 2)
    for number in range(4):
        monkeypatch.setattr(time, "time", lambda now=number: float(now))
        needs.keep(str(number), {})
    needs.keep("3", {"memory": 3})
    assert [needs.recall(str(number)) for number in range(4)] == [None, None, {}, {"memory": 3}]
    database.close()
