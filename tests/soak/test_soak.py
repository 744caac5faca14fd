"""The soak's judges can fail, its requests are the same for a seed, and a short one passes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.soak import report
from tests.soak.gauges import Idle, Sample
from tests.soak.questions import CHAT, Question
from tests.soak.run import Lost, Soak, soak
from tests.soak.verdict import Answer, judged
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
