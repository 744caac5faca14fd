"""The soak's judges can fail, its requests are the same for a seed, and a short one passes."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="the extra `knowledge` is not installed")
pytest.importorskip("redis", reason="the extra redis is not installed")

from tests.soak import report
from tests.soak.gauges import Idle, Sample, growth
from tests.soak.questions import CHAT, SHARES, Asker, Question
from tests.soak.run import Lost, Soak, soak, uncounted
from tests.soak.scene import KEYS
from tests.soak.verdict import Answer, judged, returned
from tools import servers

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").is_file(), reason="memory is read from Linux's /proc"
)
ASKED = Question(0, "chat", CHAT, "POST", CHAT.path, {}, b"{}")
SSE = "text/event-stream"


def _whole(text: str, reason: str = "length", **message: Any) -> bytes:
    said = {"role": "assistant", "content": text, **message}
    choice = {"index": 0, "message": said, "finish_reason": reason}
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    return json.dumps({"choices": [choice], "usage": usage}).encode()


def _stamps(*times: int) -> str:
    return "".join(f"t{time:015} " for time in times)


def _json(body: bytes, status: int = 200) -> Answer:
    return Answer(status, "application/json", body)


ERROR = b'{"error":{"message":"x","type":"y","code":null}}'
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":%b}]}\n\n'
COLOUR = '{"colour":"red","size":3}'


@pytest.mark.parametrize(
    ("question", "answer", "why"),
    [
        (ASKED, Answer(0, "", b"", "no answer within 180 s"), "no answer"),
        (ASKED, Answer(200, SSE, CHUNK % b"null", "cut off: IncompleteRead"), "cut off"),
        (ASKED, _json(b'{"choices":[]'), "invalid"),
        (ASKED, _json(b'{"detail":"x"}', 503), "form of its own"),
        (ASKED, _json(ERROR, 500), "500"),
        (ASKED, _json(ERROR, 400), "valid request is refused"),
        (ASKED, Answer(200, SSE, b"data: [DONE]\n\n"), "against the request"),
        (ASKED._replace(streamed=True), Answer(200, SSE, CHUNK % b'"length"'), "invalid"),
        (ASKED._replace(streamed=True), Answer(200, SSE, CHUNK % b"null" + b"data: [DONE]\n\n"),
         "no end"),
        (ASKED._replace(stamps=3), _json(_whole(_stamps(1, 2))), "2 tokens of 3"),
        (ASKED._replace(stamps=2), _json(_whole(_stamps(2, 1))), "wrong order"),
        (ASKED._replace(shape="json"), _json(_whole('{"colour":"pink"}', "stop")), "schema"),
        (ASKED._replace(shape="tool"), _json(_whole("red", "stop")), "no tool call"),
    ],
)  # fmt: skip
def test_what_is_neither_an_answer_nor_an_error_is_lost(
    question: Question, answer: Answer, why: str
) -> None:
    verdict = judged(question, answer)
    assert verdict.end == "lost" and why in verdict.why


@pytest.mark.parametrize(
    ("question", "answer", "end"),
    [
        (ASKED, _json(_whole("a")), "whole"),
        (ASKED._replace(stamps=2), _json(_whole(_stamps(1, 2))), "whole"),
        (ASKED._replace(shape="json"), _json(_whole(COLOUR, "stop")), "whole"),
        (ASKED._replace(streamed=True),
         Answer(200, SSE, CHUNK % b'"length"' + b"data: [DONE]\n\n"), "whole"),
        (ASKED, _json(ERROR, 503), "refused"),
        (ASKED._replace(may_refuse=True), _json(ERROR, 400), "refused"),
        (ASKED._replace(streamed=True), Answer(200, SSE, b"data: " + ERROR + b"\n\n"),
         "broken off"),
    ],
)  # fmt: skip
def test_answers_and_errors_of_the_dialect_are_not_lost(
    question: Question, answer: Answer, end: str
) -> None:
    assert judged(question, answer).end == end


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (Answer(200, "application/octet-stream", b"sent"), "whole"),
        (Answer(200, "application/octet-stream", b"else"), "lost"),
        (Answer(200, "application/octet-stream", b"se", "cut off"), "lost"),
        (_json(ERROR, 503), "refused"),
        (_json(ERROR, 404), "lost"),
    ],
)
def test_uploaded_file_comes_back_or_is_refused(answer: Answer, end: str) -> None:
    assert returned(ASKED._replace(dialect=None), b"sent", answer).end == end


def test_requests_are_made_of_seed_and_number_alone() -> None:
    one, two = (Asker(7, tuple(KEYS.values())) for _ in "ab")
    made = [one.question(number) for number in range(300)]
    assert made == [two.question(number) for number in range(300)]
    assert {question.kind for question in made} == {*SHARES}
    assert made[:20] != [Asker(8, tuple(KEYS.values())).question(n) for n in range(20)]


def _sample(at: float, memory: int = 100, **more: int) -> Sample:
    return Sample(at, memory, 50, 20, more.get("temporary", 0), 0)


def _soak(**changed: Any) -> Soak:
    samples = [_sample(60.0 * minute) for minute in range(60)]
    good = Soak(
        3600, 180, 1, 2, Counter({("chat", "whole"): 5}), Counter(), [], Counter(), samples,
        _sample(0), _sample(3600), Idle(0, 0, 0), 0, [], 1.0, 10.0,
    )  # fmt: skip
    return good._replace(**changed)


GREW = [_sample(60.0 * minute, 100 + minute) for minute in range(60)]
LOST = {"ends": Counter({("chat", "lost"): 1}), "lost": [Lost(ASKED, "cut off", 3.0)]}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (LOST, "cut off"),
        ({"quiet": Idle(1, 0, 0)}, "slots busy"),
        ({"quiet": Idle(0, 0, 0, 1)}, "places under limits"),
        ({"uncharged": 5}, "budget"),
        ({"quiet": None}, "no answer"),
        ({"samples": GREW}, "growth of memory"),
        ({"after": _sample(3600, temporary=1)}, "temporary files"),
        ({"after": _sample(3600)._replace(descriptors=60)}, "descriptors"),
        ({"after": _sample(3600)._replace(threads=60)}, "threads"),
        ({"findings": ["Traceback"]}, "Traceback"),
    ],
)
def test_what_is_lost_or_left_fails_the_soak(changed: dict[str, Any], said: str) -> None:
    assert report.failures(_soak()) == []
    bad = _soak(**changed)
    assert said in "\n".join(report.failures(bad))
    assert "✗" in report.outcome(bad)


@pytest.mark.parametrize(
    ("rows", "logged", "said"),
    [
        ([("a", 3, 5)], [("a", 3, 5)], ""),
        ([], [("a", 3, 5)], "answers that are not in the ledger"),
        ([("a", 3, 5), ("b", 1, 1)], [("a", 3, 5)], "not in the log"),
        ([("a", 3, 5), ("a", 3, 5)], [("a", 3, 5)], "in the ledger twice"),
        ([("a", 3, 5)], [("a", 3, 6)], "answers in the log"),
    ],
)
def test_ledger_and_log_have_each_answer_once(
    tmp_path: Path, rows: list[tuple[str, int, int]], logged: list[tuple[str, int, int]], said: str
) -> None:
    (tmp_path / "data").mkdir()
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "slotproxy.db")) as db, db:
        db.execute("create table ledger_row (request, prompt, completion)")
        db.executemany("insert into ledger_row values (?, ?, ?)", rows)
    names = ("id", "prompt_tokens", "completion_tokens")
    lines = [json.dumps({**dict(zip(names, row, strict=True)), "backend": "b"}) for row in logged]
    (tmp_path / "gateway.log").write_text("\n".join(["slotproxy: listening", *lines]))
    wrong = "\n".join(uncounted(tmp_path, ["a"]))
    assert said in wrong if said else not wrong


def test_growth_is_measured_once_the_gateway_is_warm() -> None:
    samples = [_sample(0, 50), _sample(9, 80), *(_sample(at, 100) for at in range(10, 30))]
    assert growth(samples, 10) == 0
    assert growth(samples, 0) > 0.1


@needs_proc
@pytest.mark.slow
def test_forty_seconds_lose_nothing_and_leave_nothing(tmp_path: Path) -> None:
    if servers.find("llama-2023") is None:
        pytest.skip("llama-2023 is not built: python -m tools.servers build llama-2023")
    done = soak(tmp_path, 40.0, seed=3)
    failed = report.failures(done)
    assert not failed, "\n".join([*failed, report.outcome(done)])
    assert done.ends["chat", "whole"] > 50
    assert sum(done.troubles.values()) >= 3
