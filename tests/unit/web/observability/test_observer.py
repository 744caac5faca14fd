"""Where the lines of the access log go."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from proxy.core.usage import Usage
from proxy.gateway import Info
from proxy.runtime.cancel import Cancel
from proxy.store.measures import total
from proxy.web.observability import Lines, Observer, Record
from proxy.web.observability.observer import AT_ONCE, access, line, shown, write
from proxy.web.observability.record import MOST_WARNINGS
from tests.fakes import at_once

ENDED = 1767323045


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """The only handler there is, as a gateway sets it up."""
    only = Lines()
    only.setStream(io.StringIO())
    monkeypatch.setattr(logging.root, "handlers", [only])
    before = access.level
    access.setLevel(logging.INFO)  # which forgets cached levels, as setattr does not
    yield only
    access.setLevel(before)


def request(route: str) -> Record:
    record = Record({"PATH_INFO": route})
    record.route = route
    return record


def test_line_is_written_to_the_stream_unchanged(lines: Lines) -> None:
    record = request("/%s")
    write(record, 0.1, ENDED)
    assert lines.stream.getvalue() == f"{line(record, 0.1, ENDED)}\n"


def test_other_handler_gets_a_record(lines: Lines) -> None:
    records: list[logging.LogRecord] = []
    other = logging.Handler()
    other.emit = lambda record: records.append(record)  # type: ignore[method-assign]
    logging.root.handlers.append(other)
    record = request("/%s")
    write(record, 0.1, ENDED)
    assert [entry.getMessage() for entry in records] == [line(record, 0.1, ENDED)]
    assert lines.stream.getvalue() == f"{line(record, 0.1, ENDED)}\n"


def test_listener_that_fails_costs_nothing_else(lines: Lines) -> None:
    """Not the answer, nor what others record of it."""

    def fail(record: Record, took: float) -> None:
        raise ZeroDivisionError

    heard: list[Record] = []
    observer = Observer(metrics=True, on_finished=[fail, lambda record, took: heard.append(record)])
    observer.on_end += [fail, lambda record, took: heard.append(record)]
    record = request("/v1/chat/completions")
    record.asks_model = True
    observer.finish(record)
    assert heard == [record, record]
    assert sum(observer.counts().requests.values()) == 1
    fault, _, last = lines.stream.getvalue().strip().rpartition("\n")
    assert "ZeroDivisionError" in fault and record.id in last


def test_closed_log_stream_loses_only_the_line(lines: Lines) -> None:
    lines.stream.close()
    write(request("/"), 0.1, ENDED)


def test_line_has_times_in_tenths_of_milliseconds() -> None:
    environ = {"PATH_INFO": "/" + "p" * 300, "REQUEST_METHOD": "POST", "REMOTE_ADDR": "192.0.2.7"}
    record = Record({"HTTP_X_REQUEST_ID": "7", **environ})
    record.status, record.key, record.alias = 200, "key_7", "ann"
    record.info = Info(
        model="m", backend="b", slot=3, queue_wait=0.00123, first_token=0.01, usage=Usage(10, 16, 3)
    )
    record.info.tier, record.info.passed = "cloud", (("gpu-1", "down"), ("gpu-2", "busy"))
    record.info.outcome = "length"
    assert json.loads(line(record, 1.23456, ENDED)) == {
        "id": "7",
        "peer": "192.0.2.7",
        "method": "POST",
        "path": "/" + "p" * 199,
        "status": 200,
        "key": "key_7",
        "key_alias": "ann",
        "model": "m",
        "backend": "b",
        "tier": "cloud",
        "fallback": "gpu-1 down, gpu-2 busy",
        "slot": 3,
        "stream": False,
        "queue_ms": 1.2,
        "ttft_ms": 10.0,
        "ms": 1234.6,
        "prompt_tokens": 10,
        "cached_tokens": 3,
        "completion_tokens": 16,
        "continued": 0,
        "outcome": "length",
        "time": "2026-01-02T03:04:05Z",
    }


def text_of(record: Record, seconds: float, form: Lines) -> str:
    """The line for people, without its time."""
    return shown(record, seconds, ENDED, form).split(" ", 1)[1]


def test_line_for_people_has_what_matters_and_nothing_empty() -> None:
    form = Lines("text")
    record = Record({"PATH_INFO": "/v1/chat/completions", "REQUEST_METHOD": "POST"})
    record.status, record.key, record.alias = 200, "key_8889966c5cbda104a997f3c2", "ann"
    record.info = Info(model="qwen3", first_token=0.18, usage=Usage(31, 12, 24))
    record.info.outcome = "stop"
    assert text_of(record, 1.52, form) == (
        "200   POST /v1/chat/completions  qwen3  ann  31 (24 cached) in, 12 out  first 180 ms"
        "  1.5 s  stop"
    )
    plain = Record({"PATH_INFO": "/x", "REQUEST_METHOD": "GET"})
    plain.status, plain.info.outcome = 404, "not_found_error"
    assert text_of(plain, 0.0001, form) == f"404   {'GET /x':25}  1 ms  not_found_error"


def test_line_says_that_an_answer_was_carried_on_or_cut_off() -> None:
    record = request("/")
    record.status, record.info.continued, record.info.outcome = 200, 1, "stop"
    assert text_of(record, 36, Lines("text")).endswith("  36.0 s  continued  stop")
    record.info = Info(outcome="gateway_stopping")
    assert text_of(record, 1, Lines("text")).endswith("  1.0 s  cut off: gateway_stopping")
    record.status = 503
    assert text_of(record, 1, Lines("text")).endswith("  1.0 s  gateway_stopping")


def test_long_path_is_shortened_in_the_middle() -> None:
    path = f"/pages/api/chat/conversations/conv_{32 * '7'}/ask"
    text = text_of(Record({"PATH_INFO": path, "REQUEST_METHOD": "POST"}), 0.1, Lines("text"))
    assert text == "–     POST /pages/api/chat/conversations/co…77777777/ask  100 ms"


def test_line_for_people_has_no_control_characters_of_a_client() -> None:
    record = Record({"PATH_INFO": "/\x1b[31m\n12:00:00 200", "REQUEST_METHOD": "GET"})
    text = text_of(record, 0.1, Lines("text"))
    assert text == r"–     GET /\x1b[31m\n12:00:00 200    100 ms"


@pytest.mark.parametrize(
    ("status", "outcome", "colour"),
    [(200, "stop", 32), (200, "upstream_fault", 31), (429, "rate_limited", 33), (502, "x", 31)],
)
def test_colour_of_a_status_says_how_the_request_ended(
    status: int, outcome: str, colour: int
) -> None:
    form = Lines("text")
    form.has_colour = True
    record = request("/")
    record.status, record.info.outcome = status, outcome
    assert f"\x1b[{colour}m{status}" in shown(record, 0.1, ENDED, form)


def test_quiet_request_is_logged_only_with_a_5xx_or_at_level_debug(lines: Lines) -> None:
    observer = Observer(metrics=False)

    def logged(status: int) -> bool:
        record = request("/livez")
        record.status, record.quiet = status, True
        before = lines.stream.getvalue()
        observer.finish(record)
        return bool(lines.stream.getvalue() != before)

    assert [logged(status) for status in (200, 404, 500, 503)] == [False, False, True, True]
    access.setLevel(logging.DEBUG)
    assert logged(200)


@pytest.mark.parametrize("count", [MOST_WARNINGS, MOST_WARNINGS + 1, 3000])
def test_warnings_are_grouped_into_few_headers(count: int) -> None:
    record = request("/api/generate")
    record.info = Info(warnings=tuple(f"the option {n} is ignored" for n in range(count)))
    warnings = [value for name, value in record.headers() if name == "x-slotproxy-warning"]
    assert warnings[:MOST_WARNINGS] == list(record.info.warnings[:MOST_WARNINGS])
    more = count - MOST_WARNINGS
    assert warnings[MOST_WARNINGS:] == ([f"{more} more warnings omitted"] if more else [])


def test_every_request_is_counted_when_metrics_are_read(lines: Lines) -> None:
    observer = Observer(metrics=True)
    records = [request("/p") for _ in range(3 * AT_ONCE + 2)]
    for record in records:
        observer.begin(record, Cancel())
        record.status = 200
    for number, record in enumerate(records[1:], start=1):
        observer.finish(record)
        if number in (1, AT_ONCE, AT_ONCE + 1, len(records) - 1):
            assert total(observer.samples().values())["requests"] == number
            assert observer.counts().requests == {("/p", "200"): number}
            running = sum(observer.counts().running.values())
            assert observer.running == running == len(records) - number
    assert lines.stream.getvalue().count("\n") == len(records) - 1


def test_threads_lose_no_request(lines: Lines) -> None:
    observer = Observer(metrics=True)

    def work(number: int) -> None:
        for _ in range(1000):
            record = request("/p")
            observer.begin(record, Cancel())
            observer.finish(record)
            observer.samples()

    at_once(work, 4)
    assert observer.counts().requests == {("/p", "0"): 4000}
    assert observer.running == 0


def test_request_runs_until_its_row_and_its_line_are_written() -> None:
    """A stop waits for the requests that run, and closes the ledger then."""
    running: list[int] = []
    observer = Observer(
        metrics=False, on_finished=[lambda record, seconds: running.append(observer.running)]
    )

    class Looks(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            running.append(observer.running)

    looks, before = Looks(), access.level
    access.addHandler(looks)
    access.setLevel(logging.INFO)
    try:
        record = request("/v1/chat/completions")
        record.asks_model = True
        observer.begin(record, Cancel())
        observer.finish(record)
    finally:
        access.removeHandler(looks)
        access.setLevel(before)
    assert (running, observer.running) == ([1, 1], 0)


def test_request_that_found_no_idle_slot_leaves_no_trace(lines: Lines) -> None:
    rows: list[Record] = []
    observer = Observer(metrics=True, on_finished=[lambda record, seconds: rows.append(record)])
    ended: list[float] = []  # of those that began: watchers let go of them
    observer.on_end.append(lambda record, seconds: ended.append(seconds))
    record = request("/v1/chat/completions")
    observer.begin(record, Cancel())
    record.status, record.info.outcome = 429, "no_idle_slot"
    observer.finish(record)
    assert len(ended) == 1
    assert (observer.running, rows, lines.stream.getvalue()) == (0, [], "")
