"""A few hundred cases of each fuzzer of a running gateway, the same on every run."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest

from tests.fuzz import bodies, sockets, uploads
from tests.fuzz.subject import Answer, Case, drive, running, told, wrong_in
from tests.thorough import FEW
from tools import servers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path("/proc/self/task").is_dir(), reason="memory and times are read from /proc"
    ),
]


@pytest.fixture(autouse=True)
def server_is_built() -> None:
    if servers.find("llama-2023") is None:
        pytest.skip("llama-2023 is not built: python -m tools.servers build llama-2023")


def test_no_body_breaks_a_route(tmp_path: Path) -> None:
    with running(tmp_path, keys=True) as subject:
        report, _ = bodies.fuzz(subject, seed=1, count=150)
    assert not subject.findings, told(report, subject, tmp_path)
    assert subject.counts["2xx"] > 20 and subject.counts["4xx"] > 60


def test_no_file_breaks_an_upload(tmp_path: Path) -> None:
    with running(tmp_path, keys=False, more=uploads.FLAGS) as subject:
        report, uploader = uploads.fuzz(subject, seed=1, count=25 if FEW else 60, unread=3)
    assert not subject.findings, told(report, subject, tmp_path)
    assert uploader.ways["file"] > 1 and uploader.states["ready"] > 0


def test_no_frame_breaks_a_websocket(tmp_path: Path) -> None:
    with running(tmp_path, keys=True) as subject:
        report, fuzzer = sockets.fuzz(subject, seed=1, count=40 if FEW else 200)
    assert not subject.findings, told(report, subject, tmp_path)
    assert len(fuzzer.routes) > 1 and fuzzer.answers > 3


CHAT = Case(0, "openai.chat_completions", "POST", "/v1/chat/completions", {}, b"{}")


@pytest.mark.parametrize(
    ("case", "answer"),
    [
        (CHAT, Answer(500, "application/json", b'{"error":{"message":"x"}}', whole=True)),
        (CHAT, Answer(503, "application/json", b'{"error":{"message":"x"}}', whole=True)),
        (CHAT, Answer(400, "application/json", b'{"detail":"x"}', whole=True)),
        (CHAT, Answer(400, "text/plain", b"no", whole=True)),
        (CHAT, Answer(200, "application/json", b'{"a":NaN}', whole=True)),
        (CHAT, Answer(200, "text/event-stream", b"data: {\n\n", whole=True)),
        (
            CHAT._replace(endpoint="ollama.chat_"),
            Answer(400, "application/json", b'{"error":{"message":"x"}}', whole=True),
        ),
    ],
)
def test_wrong_answer_is_detected(case: Case, answer: Answer) -> None:
    """The fuzzers themselves can fail."""
    assert wrong_in(case, answer)


def test_right_answer_is_accepted() -> None:
    refused = Answer(400, "application/json", b'{"error":{"message":"x"}}', whole=True)
    streamed = Answer(200, "text/event-stream", b"data: {}\n\ndata: [DONE]\n\n", whole=True)
    assert not wrong_in(CHAT, refused) and not wrong_in(CHAT, streamed)


def test_traceback_and_leftovers_are_detected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.fuzz.subject.IDLE", 0.2)
    asked = b'{"prompt":"a","n_predict":4}'
    headers = {"Content-Type": "application/json"}
    case = Case(0, "native.completion", "POST", "/completion", headers, asked)
    with running(tmp_path, keys=False) as subject:
        with (tmp_path / "gateway.log").open("a") as log:
            log.write("Traceback (most recent call last):\nValueError: x\n")
        subject.backend.send(signal.SIGSTOP)
        asking = threading.Thread(target=subject.send, args=(case,))
        asking.start()
        while not subject.get("/v1/backends")["data"][0]["in_flight"]:
            time.sleep(0.01)
        report = drive(subject, lambda number: None, count=1)
        subject.backend.send(signal.SIGCONT)
        asking.join()
        found = [one.what for one in subject.findings]
        assert found == ["something is left over", "log: ValueError: x"]
    assert "FOUND log: ValueError: x" in told(report, subject, tmp_path)
