"""What the hot path costs, in bytecodes: the same on every machine, however busy it is.

The bounds stand about a fourth above what was counted when they were written. One that breaks asks
for a look at what was added, not for a higher number.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from proxy import http1
from proxy.core.events import Batch, Finished, Started, TextDelta
from proxy.core.fold import fold
from proxy.core.request import CompletionRequest
from proxy.core.task import Task
from proxy.core.usage import Usage
from proxy.dialects import openai_chat
from proxy.dialects.stamp import Stamp
from proxy.gateway import Info
from proxy.gateway.way import Manner, Way
from proxy.http1 import Connection, base_environ
from proxy.prompting import templates
from proxy.prompting.prompt import Prompter
from proxy.scheduling.lease import Lease, Outcome
from proxy.scheduling.scheduler import Scheduler
from proxy.scheduling.state import Want
from proxy.web.auth import Keys
from proxy.web.direct import Application
from proxy.web.observe import AT_ONCE, Lines, Observer, Record, access
from proxy.web.reply import Plain
from proxy.web.services import EXTENSION
from proxy.wire import servercpp, sse
from tests.bytecodes import bytecodes

EVENT = b'data: {"content":" word","stop":false,"id_slot":0,"tokens_predicted":7}\n\n'


def encoder() -> openai_chat.Encoder:
    stamp = Stamp("chatcmpl-1", 1, "model", "print", lambda: 0.0)
    made = openai_chat.Encoder(stamp, CompletionRequest(stream=True))
    made.encode(0, [Started(), TextDelta("a")])
    return made


def body(messages: int) -> dict[str, Any]:
    said = [{"role": "user", "content": "word " * 50}] * messages
    return {"model": "m", "messages": said, "max_tokens": 16, "temperature": 0.7}


def test_a_request_is_read_by_what_is_in_it() -> None:
    assert bytecodes(lambda: openai_chat.parse(body(2))) < 620
    many = bytecodes(lambda: openai_chat.parse(body(102)))
    assert many - bytecodes(lambda: openai_chat.parse(body(2))) < 100 * 66


def test_a_request_becomes_a_prompt() -> None:
    # The plainest template that there is, and one message more of it.
    source = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] "
    source += "+ '<|im_end|>' + '\\n' }}{% endfor %}"
    prompter, now = Prompter(templates.compile(source, "test")), datetime(2026, 1, 1)

    def render(messages: int) -> int:
        asked = openai_chat.parse(body(messages))
        return bytecodes(lambda: prompter.render(asked, now))

    assert render(2) < 980
    assert render(102) - render(2) < 100 * 170


def test_an_answer_is_told_whole() -> None:
    asked = openai_chat.parse(body(2))
    stamp = Stamp("chatcmpl-1", 1, "model")
    batch: Batch = [Started(), TextDelta("a"), TextDelta("b"), Finished("stop", Usage(2, 2))]
    assert bytecodes(lambda: openai_chat.reply(stamp, asked, fold([(0, batch)]))) < 580


def test_an_answer_that_nothing_binds_goes_its_way() -> None:
    asked = openai_chat.parse(body(2))
    task = Task(prompt="<|im_start|>assistant\n", request=asked)
    manner = Manner(new_id=lambda: "")

    def answered() -> None:
        way = Way(task, manner, Usage)
        way.feed([Started()])
        way.feed([TextDelta("a"), Finished("stop", Usage(2, 2))])
        assert way.idle, "its first word is no thought"

    assert bytecodes(answered) < 600


def test_a_token_from_the_wire() -> None:
    decoder = sse.Decoder()
    assert bytecodes(lambda: servercpp.chunk((decoder.plain(EVENT) or [])[0])) < 45


def test_a_token_to_the_wire() -> None:
    made, batch = encoder(), [TextDelta(" word")]
    assert bytecodes(lambda: made.encode(0, batch)) < 75


def test_tokens_that_come_together_are_cheaper_than_one_by_one() -> None:
    made = encoder()
    one: Batch = [TextDelta(" word")]
    many: Batch = one * 32
    assert bytecodes(lambda: made.encode(0, many)) < 24 * bytecodes(lambda: made.encode(0, one))


def test_a_token_late_in_an_answer_costs_what_an_early_one_does() -> None:
    made, batch = encoder(), [TextDelta(" word")]
    early = bytecodes(lambda: made.encode(0, batch))
    for _ in range(5000):
        made.encode(0, batch)
    assert bytecodes(lambda: made.encode(0, batch)) == early


def test_a_request_and_its_answer_in_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1.0)  # the Date is written once in a second
    for cache in ("_KEYS", "_HOSTS"):  # other tests fill them with names that nobody sends
        monkeypatch.setattr(http1, cache, type(getattr(http1, cache))())
    data = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nUser-Agent: u\r\nAccept: */*\r\n"
    )
    data += b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"

    class Wire:
        def __init__(self) -> None:
            self.pieces = [data]

        def recv(self, size: int, /) -> bytes:
            return self.pieces.pop() if self.pieces else b""

        def send(self, sent: bytes, /) -> None:
            pass

        def flush(self) -> None:
            pass

        def finish(self) -> None:
            pass

        def give_way(self) -> None:
            pass

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        start("200 OK", [("Content-Type", "application/json"), ("Content-Length", "2")])
        return [b"{}"]

    def exchange() -> None:
        wire = Wire()
        Connection(wire, app, base_environ(wire, ("h", 1), ("h", 2))).serve(lambda: False)

    assert bytecodes(exchange) < 1050


def test_the_direct_way_to_a_view_and_back() -> None:
    app = Application("test")
    app.extensions[EXTENSION] = None
    app.direct["/a"] = lambda here, environ: Plain(b"{}", "application/json", [])
    environ = {"PATH_INFO": "/a", "REQUEST_METHOD": "POST"}
    assert bytecodes(lambda: app(environ, lambda *_: lambda data: None)) < 165


def test_a_key_costs_the_same_among_many() -> None:
    def cost(count: int) -> int:
        keys = Keys((f"name {number}", f"secret {number}") for number in range(count))
        environ = {"HTTP_AUTHORIZATION": f"Bearer secret {count - 1}"}
        assert keys.check(environ) == f"name {count - 1}"
        return bytecodes(lambda: keys.check(environ))

    assert cost(500) == cost(1) < 120


def test_what_is_told_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines()
    lines.setStream(io.StringIO())
    monkeypatch.setattr(logging.root, "handlers", [lines])
    monkeypatch.setattr(access, "isEnabledFor", lambda level: True)
    observer = Observer(metrics=True)

    def told() -> None:
        record = Record({"PATH_INFO": "/v1/chat/completions"})
        observer.begin(record)
        record.status = 200
        record.info = Info("m", "b", 1, first_token=0.1, last_token=0.2, usage=Usage(10, 16, 3))
        record.headers()
        observer.end(record)

    def many() -> None:  # so that they are added up once
        for _ in range(AT_ONCE):
            told()

    assert bytecodes(many) < 650 * AT_ONCE


def test_a_turn_costs_a_template_the_same_wherever_it_stands() -> None:
    source = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    form = templates.compile(source + "{% endfor %}", "test")

    def render(turns: int) -> int:
        messages = [{"role": "user", "content": "word " * 50}] * turns
        return bytecodes(lambda: form.render(messages))

    few, some, many = render(10), render(20), render(200)
    assert many - some <= 18 * (some - few) * 1.1


def test_a_placing_from_its_chain_to_its_release() -> None:
    scheduler = Scheduler(lambda: 1.0)
    scheduler.update("b", "m", up=True, slots=16)
    prompt = "You are a helpful assistant. How long is the way, and who has walked it?"
    task = Task(prompt=prompt, max_tokens=16)

    def turn() -> None:
        found = scheduler.enter(Want("m", task, chain=scheduler.chain(prompt, (28, len(prompt)))))
        assert isinstance(found, Lease), "a slot is free"
        found.flows(found.slot.id)
        found.ends()
        found.release(Outcome("whole", found.slot.id, 20, 1, 16, 0.01))

    assert bytecodes(turn) < 2300


@pytest.mark.parametrize("slots", [4, 1000])
def test_a_place_is_found_as_quickly_among_a_thousand_slots(slots: int) -> None:
    def cost(count: int) -> int:
        scheduler = Scheduler(lambda: 1.0)
        scheduler.update("b", "m", up=True, slots=count)

        def turn() -> None:
            task = Task(prompt="word " * 100, max_tokens=16)
            want = Want("m", task, chain=scheduler.chain("word " * 100))
            found = scheduler.enter(want)
            assert hasattr(found, "release"), "a slot is free"
            found.flows(found.slot.id)
            found.release()

        return bytecodes(turn)

    assert cost(slots) < 2 * cost(16) + 500
