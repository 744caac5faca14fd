"""Data of the status page."""

from __future__ import annotations

import json
from itertools import count
from types import SimpleNamespace

import pytest

from proxy.config import Secret
from proxy.web import stream
from proxy.web.pages import status
from tests.fakes import ScriptedDriver, client

EVENTS = "/pages/api/status/events"


def test_status_has_backends_slots_and_totals() -> None:
    visitor = client(ScriptedDriver(), ScriptedDriver())
    visitor.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hi"}]})
    told = visitor.get("/pages/api/status").json
    assert [one["state"] for one in told["backends"]] == ["up", "up"]
    assert told["backends"][0]["found"]["dialect"] == "2023"
    assert [len(one["slots"]) for one in told["slots"]] == [2, 2]
    assert (told["hour"]["requests"], told["hour"]["prompt"], told["hour"]["cached"]) == (1, 7, 2)
    assert told["points"]["requests"][-1] == pytest.approx(0.1)
    assert told["running"] == 0


def test_status_stream_sends_the_hour_once_then_each_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(status, "PERIOD", 0.01)
    monkeypatch.setattr(status, "LIFE", 0.1)
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


def test_status_requires_a_key() -> None:
    visitor = client(api_key=(Secret("sesame"),))
    for path in ("/pages/api/status", EVENTS, "/pages/api/knowledge"):
        assert visitor.get(path).status_code == 401
