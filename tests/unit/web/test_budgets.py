"""Budgets of keys, users and teams, over HTTP."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy.accounts.limiting import allowance
from proxy.accounts.limiting.budgets import Price
from proxy.accounts.limiting.limiter import LocalLimiter
from proxy.accounts.limiting.plan import BudgetOf
from proxy.accounts.limits import Budget
from proxy.core.task import CallMaker, Forwarded
from proxy.core.usage import Usage
from proxy.runtime.cancel import Cancel
from tests.fakes import CAPS, ScriptedDriver, at_once, ledger_of, say, services_of, wait_until
from tests.http_fakes import FakeHandler, FakeServer
from tests.unit.web.account_client import Http, keyed

PROMPT = 147  # tokens of CHAT, to the scripted driver
PRICE = Price(prompt=10_000, completion=20_000)  # a hundredth and a fiftieth a token


def _http(tmp_path: Path, **settings: Any) -> Http:
    # Slots are charged by the millisecond.
    wait = partial(threading.Event().wait, 0.003)
    driver = ScriptedDriver([wait, *say("Hel", "lo", usage=Usage(7, 3, 0))])
    return keyed(driver, tmp_path, price=(PRICE,), **settings)


@pytest.fixture
def http(tmp_path: Path) -> Http:
    return _http(tmp_path)


def _chat(http: Http, key: str, tokens: int = 1) -> Any:
    return http.chat(key, max_tokens=tokens)


def test_money_is_spent_by_the_price_of_the_model(http: Http) -> None:
    key = http.make(max_budget=1.60)["key"]
    assert _chat(http, key).status_code == 200  # it reserved 1.49, and cost 0.13
    refused = _chat(http, key)
    error = refused.json["error"]
    assert (refused.status_code, error["type"]) == (429, "budget_exceeded")
    assert error["message"].startswith("Budget has been exceeded! this API key may spend 1.6")
    assert "0.13 are spent" in error["message"]
    assert refused.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("price", "body", "warns"),
    [
        ((), {"max_budget": 1.5}, True),
        ((), {"budget_limits": [{"max_budget": 1}]}, True),
        ((), {"budget_limits": [{"unit": "tokens", "max_budget": 1}]}, False),
        ((), {}, False),
        ((PRICE,), {"max_budget": 1.5}, False),
    ],
)
def test_budget_of_money_without_a_price_is_a_warning(
    tmp_path: Path, price: tuple[Price, ...], body: dict[str, Any], warns: bool
) -> None:
    http = keyed(ScriptedDriver(), tmp_path, price=price)
    made = http.admin("/key/generate", **body)
    assert made.status_code == 200
    assert ("add a [[price]]" in made.headers.get("x-slotproxy-warning", "")) is warns


def test_refusal_names_what_is_spent_and_what_the_request_may_cost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    driver = ScriptedDriver(say("Hel", "lo", usage=Usage(7, 3, 0)))
    http = keyed(driver, tmp_path, price=(Price(prompt=1, completion=2),))
    key = http.make(max_budget=0.0002)["key"]
    assert _chat(http, key).status_code == 200  # 13 millionths
    message = _chat(http, key, 21).json["error"]["message"]
    assert message == (
        "Budget has been exceeded! this API key may spend 0.0002, 0.000013 are spent or reserved,"
        " and this request may cost up to 0.000189: ask an administrator for more"
    )
    assert (
        "hard limit of 0.0002: 0.000013 are spent or reserved, and this request may cost"
        in caplog.text
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("unit", ["money", "tokens"])
def test_an_answer_without_a_length_ends_where_its_budget_ends(
    tmp_path: Path, unit: str, stream: bool
) -> None:
    driver = ScriptedDriver(say("Hel", "lo", usage=Usage(7, 3, 0)))
    http = keyed(driver, tmp_path, price=(Price(prompt=1_000_000, completion=1_000_000),))
    budgets = [{"unit": unit, "max_budget": PROMPT + 40 + 10}]
    key = http.make(budget_limits=budgets)["key"]

    def ask(**more: Any) -> Any:
        answer = http.chat(key, stream=stream, **more)
        assert answer.data  # read to its end
        return answer

    first = ask()
    assert first.status_code == 200
    assert driver.tasks[-1].max_tokens == 50
    assert first.headers["x-slotproxy-warning"] == (
        f"the answer ends after 50 tokens at the latest: 0 of 197 {unit} of the budget of the key"
        " are spent or reserved"
    )
    assert ask(max_tokens=41).status_code == 429  # so does the client that says how much it wants
    assert ask(max_tokens=25).status_code == 200
    assert ask().status_code == 200
    assert driver.tasks[-1].max_tokens == 30
    assert (ask().status_code, ask().status_code) == (200, 429)  # 20 tokens are left, then 10
    assert ask(max_tokens=10).status_code == 200


def test_answers_of_unknown_length_leave_something_for_each_other(tmp_path: Path) -> None:
    """Each takes half of what is left, but 1024 tokens if they are there."""
    driver = ScriptedDriver(caps=msgspec.structs.replace(CAPS, slots=8))
    http = keyed(driver, tmp_path)
    key = http.make(budget_limits=[{"unit": "tokens", "max_budget": 3 * 1024 + 4 * PROMPT}])["key"]
    others: list[Any] = []

    def another() -> None:
        driver.script = say("x") if len(others) == 3 else [another, *say("x")]
        others.append(http.chat(key).status_code)

    driver.script = [another, *say("Hel", "lo")]
    assert http.chat(key).status_code == 200
    lengths = [task.max_tokens or 0 for task in driver.tasks]
    assert (others, lengths) == ([429, 200, 200], [1683, 1024, 512])


def test_budget_of_a_period_names_its_end(http: Http) -> None:
    key = http.make(max_budget=1.5, budget_duration="30d")["key"]
    assert _chat(http, key).status_code == 200
    refused = _chat(http, key)
    assert "in each month" in refused.json["error"]["message"]
    assert int(refused.headers["Retry-After"]) > 0


@pytest.mark.parametrize("unit", ["tokens", "slot_seconds"])
def test_budgets_in_other_units(http: Http, unit: str) -> None:
    most = PROMPT + 8 if unit == "tokens" else 0.000_001
    budgets = [{"unit": unit, "max_budget": most, "budget_duration": "1d"}]
    key = http.make(budget_limits=budgets)["key"]
    statuses = [_chat(http, key).status_code for _ in range(2)]
    assert statuses == [200, 429]


class Painter(ScriptedDriver):
    """Paints for a while, before the head of its answer and after it."""

    now = 0.0

    def forward(self, make: CallMaker, cancel: Cancel) -> Forwarded:
        self.now += 0.25
        return Picture(self)


class Picture:
    status, headers, usage = 200, {"content-type": "image/png"}, None

    def __init__(self, painter: Painter) -> None:
        self._painter = painter
        self.closing: list[Callable[[bool], object]] = []

    def __iter__(self) -> Iterator[bytes]:
        self._painter.now += 0.25
        yield b"picture"

    def close(self) -> None:
        while self.closing:
            self.closing.pop()(True)


class Ears(ScriptedDriver):
    def forward(self, make: CallMaker, cancel: Cancel) -> Forwarded:
        return Heard(Painter())


class Heard(Picture):
    status, headers = 200, {"content-type": "application/json"}

    def __iter__(self) -> Iterator[bytes]:
        yield b'{"text": "say \\"usage\\": {\\"input_tokens\\": 1}", "usage": {"input_tok'
        yield b'ens": 40, "output_tokens": 7, "input_tokens_details": {"cached_tokens": 3}}}'


def test_tokens_of_a_transcription_are_charged(tmp_path: Path) -> None:
    http = keyed(Ears(), tmp_path)
    budgets = [{"unit": "tokens", "max_budget": 45, "budget_duration": "1d"}]
    key = http.make(budget_limits=budgets)["key"]
    statuses = []
    for _ in range(2):
        answer = http.post("/v1/audio/transcriptions", key, model="scripted")
        answer.get_data()
        answer.close()
        statuses.append(answer.status_code)
    assert statuses == [200, 429]
    row, _ = ledger_of(http.app).rows(0, 1 << 60)
    assert (row.api, row.prompt, row.completion, row.cached) == ("audio", 40, 7, 3)


@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/audio/speech"])
def test_pictures_and_sound_take_the_seconds_of_their_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    painter = Painter()
    http = keyed(painter, tmp_path)
    monkeypatch.setattr(services_of(http.app).forwarder, "clock", lambda: painter.now)
    budgets = [{"unit": "slot_seconds", "max_budget": 0.75, "budget_duration": "1d"}]
    key = http.make(budget_limits=budgets)["key"]

    def status() -> int:
        answer = http.post(path, key, model="scripted", input="a", prompt="a")
        answer.get_data()
        answer.close()
        return int(answer.status_code)

    # Each takes 0.5 s.
    assert [status() for _ in range(3)] == [200, 200, 429]
    first, second, refused = ledger_of(http.app).rows(0, 1 << 60)
    assert first.slot_seconds == second.slot_seconds == 0.5
    assert refused.slot_seconds == 0


def test_requests_at_the_same_time_do_not_exceed_a_budget(http: Http) -> None:
    key = http.make(max_budget=2)["key"]
    statuses = at_once(lambda _: _chat(http, key).status_code, 16)
    while _chat(http, key).status_code == 200:
        statuses.append(200)
    assert 4 <= statuses.count(200) <= 15  # each costs 0.13; a reservation is 1.49


def test_models_without_a_price_cost_no_money(tmp_path: Path) -> None:
    http = keyed(ScriptedDriver(), tmp_path)
    assert _chat(http, http.make(max_budget=0)["key"]).status_code == 200


def test_what_was_spent_before_a_start_is_read_from_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even by a clock that is ahead."""
    http = _http(tmp_path)
    made = http.make(max_budget=1.60)
    assert _chat(http, made["key"]).status_code == 200
    ledger_of(http.app)
    ahead = time.time
    monkeypatch.setattr(time, "time", lambda: ahead() - 7200)
    again = _http(tmp_path)
    refused = _chat(again, made["key"])
    assert refused.status_code == 429
    assert "0.13 are spent" in refused.json["error"]["message"]


class _Webhook(FakeHandler):
    alerts: list[Any]

    def do_POST(self) -> None:
        self.alerts.append(self.body())
        self.send({})


def test_limits_of_a_budget_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    alerts: list[Any] = []
    with FakeServer(_Webhook, alerts=alerts) as server:
        http = _http(tmp_path, budget_webhook=f"{server.url}/hook")
        http.admin("/team/new", team_id="t", max_budget=1.70, soft_budget=0.2)
        key = http.make(team_id="t")["key"]
        answers = [_chat(http, key) for _ in range(4)]
        wait_until(lambda: len(alerts) == 2)
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    soft, hard = sorted(alerts, key=lambda alert: alert["event"], reverse=True)
    assert (soft["event"], soft["team_id"], soft["spend"]) == ("soft_budget_crossed", "t", 0.26)
    assert (hard["event"], hard["max_budget"]) == ("budget_crossed", 1.7)
    assert "the team t has reached its soft limit of 0.2" in caplog.text


def test_soft_limit_warns_in_a_header(http: Http) -> None:
    key = http.make(soft_budget=0.1)["key"]
    assert "x-slotproxy-warning" not in _chat(http, key).headers
    warned = _chat(http, key).headers["x-slotproxy-warning"]
    assert warned == "0.13 money of the budget of the key are spent"


def test_threads_that_reach_a_limit_at_once_alert_once() -> None:
    alerts: list[Any] = []
    service = allowance.LimitService(LocalLimiter(), alert=alerts.append)
    both = threading.Barrier(2)

    class Met(dict[Any, None]):
        def __contains__(self, name: object) -> bool:
            is_met = super().__contains__(name)
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(0.2)  # where one thread could see what the other has not yet set
            return is_met

    service._alerted = Met()
    budget = BudgetOf("key k", Budget(most=1))
    at_once(lambda _: service.alert_once(budget, 1, 0, is_hard=True), 2)
    assert len(alerts) == 1


def test_remembered_alerts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "MOST_ALERTS", 3)
    alerts: list[Any] = []
    service = allowance.LimitService(LocalLimiter(), alert=alerts.append)
    for number in range(9):
        budget = BudgetOf(f"key {number}", Budget(most=1))
        for _ in range(2):
            service.alert_once(budget, 1, 0, is_hard=True)
    assert len(alerts) == 9
    assert len(service._alerted) == 3


def test_speech_on_the_chat_page_needs_the_right_of_recordings(tmp_path: Path) -> None:
    http = keyed(Ears(), tmp_path)
    statuses = []
    for rights in (["pages"], ["pages", "media"]):
        key = http.make(allowed_routes=rights)["key"]
        form = {"model": "scripted", "file": (io.BytesIO(b"RIFF"), "a.wav")}
        headers = {"Authorization": f"Bearer {key}"}
        answer = http.client.post("/pages/api/chat/heard", data=form, headers=headers)
        answer.get_data()
        answer.close()
        statuses.append(answer.status_code)
    assert statuses == [403, 200]
    rows = ledger_of(http.app).rows(0, 1 << 60)
    assert [(row.api, row.prompt) for row in rows if row.prompt] == [("audio", 40)]
