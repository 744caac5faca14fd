"""Data of the status page."""

from __future__ import annotations

import json
import time
from collections import Counter
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.config import Secret
from proxy.store.measures import tally
from proxy.web import stream
from proxy.web.pages import status
from tests.fakes import ScriptedDriver, client, ledger_of, make_app
from tests.unit.store.test_ledger import row
from tests.unit.web.ledger.test_usage_routes import ADMIN, ANN, KEYS

EVENTS = "/pages/api/status/events"
PAST, SLOTS = "/pages/api/status/past", "/pages/api/status/slots"


def test_status_has_backends_slots_and_totals() -> None:
    visitor = client(ScriptedDriver(), ScriptedDriver())
    visitor.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hi"}]})
    page = visitor.get("/pages/api/status").json
    assert [backend["state"] for backend in page["backends"]] == ["up", "up"]
    assert page["backends"][0]["found"]["dialect"] == "2023"
    assert [len(backend["slots"]) for backend in page["slots"]] == [2, 2]
    since = [slot["since"] for backend in page["slots"] for slot in backend["slots"]]
    assert since.count(None) == 3, "a slot that was never used"
    assert [page["total"][name] for name in ("requests", "prompt", "cached")] == [1, 7, 2]
    assert page["points"]["requests"][-1] == 1
    assert page["minute"] == 1
    assert page["running"] == 0


def test_status_stream_sends_the_hour_once_then_each_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(status, "PERIOD", 0.01)
    monkeypatch.setattr(stream, "LIFE", 0.1)
    looks = count()  # of a clock that no slow machine lets run ahead
    clock = SimpleNamespace(monotonic=lambda: 0.01 * next(looks))
    monkeypatch.setattr(stream, "time", clock)
    answer = client().get(EVENTS)
    assert answer.content_type == "text/event-stream"
    frames = answer.get_data(as_text=True).split("\n\n")
    names = [frame.split("\n")[0] for frame in frames if frame]
    assert names[:3] == ["retry: 500", "event: points", "event: now"]
    assert 1 < names.count("event: now") <= 11
    assert json.loads(frames[2].split("data: ")[1])["queue"] == []


def test_status_stream_clients_are_bounded() -> None:
    visitor = client()
    seats = [visitor.get(EVENTS) for _ in range(status.MOST_WATCHERS)]
    refused = visitor.get(EVENTS)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "15")
    for seat in seats:
        seat.close()
    again = visitor.get(EVENTS)
    assert again.status_code == 200
    again.close()


def test_longer_times_come_from_the_ledger(tmp_path: Path) -> None:
    app = make_app(ScriptedDriver(), data=str(tmp_path))
    now = int(time.time())
    hour = now - now % 3600
    span = now - now % 600
    ((bucket, _),) = tally([0.25])
    counts = Counter({("requests", 0): 3, ("first_token", bucket): 3})
    ledger_of(app).write("w", 1, [row()], {span: counts, hour - 40 * 3600: counts})
    visitor = app.test_client()
    day = visitor.get(f"{PAST}?hours=24").get_json()
    assert (day["total"]["requests"], day["points"]["step"]) == (3, 3600)
    assert day["points"]["requests"] == [0] * 23 + [3]
    assert day["total"]["first_token"]["p50"] == pytest.approx(0.25, rel=0.05)
    week = visitor.get(f"{PAST}?hours=168").get_json()
    assert (week["total"]["requests"], week["points"]["step"]) == (6, 86400)
    assert len(week["points"]["at"]) == 7
    last = visitor.get(f"{PAST}?hours=1").get_json()
    assert (last["points"]["step"], len(last["points"]["at"])) == (600, 6)
    assert last["total"]["requests"] == 3
    assert visitor.get(f"{PAST}?hours=0").status_code == 400


def test_slots_are_named_for_their_own_key_and_for_administrators(tmp_path: Path) -> None:
    app = make_app(ScriptedDriver(), data=str(tmp_path), file_keys=KEYS, admins=("root",))
    visitor = app.test_client()
    for headers in (ANN, ADMIN):
        question = {"messages": [{"role": "user", "content": "Where is it?"}]}
        visitor.post("/v1/chat/completions", json=question, headers=headers)

    def held(headers: dict[str, str]) -> list[Any]:
        backend = visitor.get("/pages/api/status", headers=headers).get_json()["backends"][0]["id"]
        query = {"backend": backend, "first": 0}
        answer = visitor.get(SLOTS, query_string=query, headers=headers)
        assert "Where" not in answer.get_data(as_text=True)
        tenures = answer.get_json()["tenures"]
        return [(t["key"], bool(t["conversation"]), t["prompt"]) for t in tenures]

    assert sorted(held(ADMIN)) == [("ann", True, 7), ("root", True, 7)]
    assert ("ann", True, 7) in held(ANN)
    assert (None, False, 0) in held(ANN)

    def now(headers: dict[str, str]) -> list[tuple[bool, bool]]:
        (backend,) = visitor.get("/v1/slots", headers=headers).get_json()["backends"]
        used = [slot for slot in backend["slots"] if slot["held"]]
        return sorted((bool(slot["conversation"]), slot["tokens"] > 0) for slot in used)

    # The administrator's prompt took the place of the first.
    assert (now(ADMIN), now(ANN)) == ([(True, True)], [(False, False)])


def test_status_requires_a_key() -> None:
    visitor = client(api_key=(Secret("sesame"),))
    paths = (
        "/pages/api/status",
        f"{PAST}?hours=1",
        f"{SLOTS}?first=0",
        EVENTS,
        "/pages/api/knowledge",
    )
    for path in paths:
        assert visitor.get(path).status_code == 401
