"""The WebSocket of /v1/responses, on a scripted backend."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import EnvironBuilder
from wsproto.events import CloseConnection

from proxy.apis.responses.routes import websocket
from proxy.config.keys import Secret
from proxy.core.events import Failed, Started, TextDelta
from proxy.core.usage import Usage
from proxy.errors import UpstreamFault
from tests.fakes import Script, ScriptedDriver, make_app, say, wait_until
from tests.ws import UPGRADE, Client

CREATE = {"type": "response.create", "input": "Hi"}
Connect = Callable[..., Client]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Opens WebSockets to an app, as a server with sockets does."""
    threads: list[threading.Thread] = []
    socks: list[socket.socket] = []

    def opened(app: Flask, **headers: str) -> Client:
        ours, theirs = socket.socketpair()
        socks.extend((ours, theirs))
        sent = UPGRADE | {name.replace("_", "-"): value for name, value in headers.items()}
        environ = EnvironBuilder("/v1/responses", headers=[*sent.items()]).get_environ()
        environ["gunicorn.socket"] = ours

        def serve() -> None:
            statuses: list[str] = []

            def start(status: str, headers: Any, *error: Any) -> Any:
                statuses.append(status)

            parts: Any = app(environ, start)
            body = b"".join(parts)
            parts.close()
            if body:  # refused
                ours.sendall(f"HTTP/1.1 {statuses[0]}\r\n\r\n".encode() + body)
            ours.close()

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return Client(theirs)

    yield opened
    for sock in socks:
        sock.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def ask(client: Client, **more: Any) -> list[Any]:
    client.say(CREATE | more)
    return list(client.answer())


def test_events_are_those_of_the_stream(connect: Connect) -> None:
    events = ask(connect(make_app(ScriptedDriver())))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created"
    assert "".join(e["delta"] for e in events if e["type"].endswith("text.delta")) == "Hello"
    assert events[-1]["response"]["status"] == "completed"


def test_several_responses_follow_each_other(connect: Connect) -> None:
    client = connect(make_app(ScriptedDriver()))
    for _ in range(2):
        client.say(CREATE)
    ids = {list(client.answer())[-1]["response"]["id"] for _ in range(2)}
    assert len(ids) == 2


def test_response_that_is_not_stored_is_continued(connect: Connect) -> None:
    driver = ScriptedDriver()
    app = make_app(driver)
    client = connect(app)
    first = ask(client, store=False)[-1]["response"]["id"]
    last = ask(client, store=False, previous_response_id=first, input="More")[-1]
    assert last["response"]["status"] == "completed"
    prompt = driver.tasks[-1].prompt
    assert isinstance(prompt, str) and prompt.index("Hi") < prompt.index("Hello")
    other = connect(app)
    (error,) = ask(other, store=False, previous_response_id=first)
    assert (error["status"], error["error"]["code"]) == (400, "previous_response_not_found")


def test_failed_continuation_forgets_what_it_continued(connect: Connect) -> None:
    client = connect(make_app(ScriptedDriver()))
    first = ask(client, store=False)[-1]["response"]["id"]
    orphan = {"type": "function_call_output", "call_id": "call_x", "output": "5"}
    (error,) = ask(client, store=False, previous_response_id=first, input=[orphan])
    assert error["status"] == 400 and "call_x" in error["error"]["message"]
    (gone,) = ask(client, store=False, previous_response_id=first)
    assert gone["error"]["code"] == "previous_response_not_found"


def test_failure_within_a_response_is_its_last_event(connect: Connect) -> None:
    script: Script = [[Started(slot=0)], [TextDelta("Hel")], [Failed(UpstreamFault("it broke"))]]
    client = connect(make_app(ScriptedDriver(script), continue_broken=False))
    last = ask(client)[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["error"]["message"] == "it broke"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("{", None),
        ("[]", None),
        ({"input": "Hi"}, "type"),
        ({"type": "response.cancel"}, "type"),
        (CREATE | {"background": True}, "background"),
        (CREATE | {"temperature": "hot"}, "temperature"),
        ({"type": "response.create"}, "input"),
        (
            CREATE | {"input": [{"type": "function_call", "call_id": [], "name": "f"}]},
            "input[0].call_id",
        ),
    ],
)
def test_invalid_message_gets_an_error_and_the_connection_goes_on(
    connect: Connect, message: Any, param: str | None
) -> None:
    client = connect(make_app(ScriptedDriver()))
    client.say(message)
    (error,) = client.answer()
    assert (error["type"], error["status"], error["error"]["param"]) == ("error", 400, param)
    assert error["error"]["code"] and error["error"]["message"]
    assert ask(client)[-1]["type"] == "response.completed"


def test_message_without_an_answer_is_accepted(connect: Connect) -> None:
    client = connect(make_app(ScriptedDriver()))
    client.say({"type": "response.processed", "response_id": "resp_1"})
    assert ask(client)[-1]["type"] == "response.completed"


def test_prompt_is_evaluated_in_advance(connect: Connect) -> None:
    driver = ScriptedDriver(say(reason="length"))
    client = connect(make_app(driver))
    warm = ask(client, generate=False, store=False, instructions="Be brief.")[-1]
    assert warm["type"] == "response.completed" and warm["response"]["output"] == []
    driver.script = say("Hel", "lo")
    last = ask(client, store=False, previous_response_id=warm["response"]["id"], input="More")[-1]
    assert last["response"]["output"][0]["content"][0]["text"] == "Hello"
    first, second = (task.prompt for task in driver.tasks)
    assert "Hi" in str(first) and "Hi" in str(second) and "More" in str(second)


def test_prompt_in_advance_leaves_every_living_conversation_in_its_slot(connect: Connect) -> None:
    """It ends at once, well, and can be continued."""
    driver = ScriptedDriver(say("Hello", usage=Usage(2000, 3)))
    app = make_app(driver)
    for text in ("One", "Two"):  # of somebody else, in the two slots
        ask(connect(app), store=False, instructions=text * 500)
    client = connect(app)
    warm = ask(client, generate=False, store=False, instructions="Be brief.")[-1]
    assert warm["type"] == "response.completed" and warm["response"]["output"] == []
    assert len(driver.tasks) == 2
    last = ask(client, store=False, previous_response_id=warm["response"]["id"], input="More")[-1]
    assert last["type"] == "response.completed"
    assert "Hi" in str(driver.tasks[-1].prompt) and "More" in str(driver.tasks[-1].prompt)


@pytest.mark.parametrize("polite", [True, False])
def test_answer_is_cancelled_when_the_client_closes(connect: Connect, polite: bool) -> None:
    going, held = threading.Event(), threading.Event()

    def hold() -> None:
        going.set()
        held.wait(60)

    script: Script = [[Started(slot=0)], [TextDelta("Hel")], hold, *say("x" * 9)[1:]]
    driver = ScriptedDriver(script)
    client = connect(make_app(driver))
    client.say(CREATE)
    assert going.wait(60)
    if polite:
        client.send(CloseConnection(code=1000))
    else:
        client.close()
    held.set()
    wait_until(lambda: driver.runs[0].closed.is_set())


def test_key_is_required(connect: Connect) -> None:
    app = make_app(ScriptedDriver(), api_key=(Secret("one"),))
    refused = connect(app)
    assert refused.head.startswith(b"HTTP/1.1 401")
    assert ask(connect(app, Authorization="Bearer one"))[-1]["type"] == "response.completed"


def test_page_of_another_site_is_refused(connect: Connect) -> None:
    """Browsers let every page open WebSockets to every address."""
    app = make_app(ScriptedDriver())
    assert connect(app, Origin="https://evil.example").head.startswith(b"HTTP/1.1 403")
    allowed = make_app(ScriptedDriver(), cors_origins=("https://good.example",))
    assert connect(allowed, Origin="https://good.example").head.startswith(b"HTTP/1.1 101")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-WebSocket-Version": "8"}, b"426"),
        ({"Sec-WebSocket-Key": "x"}, b"400"),
        ({"Upgrade": "h2c"}, b"405"),
    ],
)
def test_invalid_handshake_is_refused(
    connect: Connect, headers: dict[str, str], status: bytes
) -> None:
    client = connect(make_app(ScriptedDriver()), **headers)
    assert client.head.startswith(b"HTTP/1.1 " + status)


def test_server_without_sockets_says_so() -> None:
    answer = (
        make_app(ScriptedDriver())
        .test_client()
        .get("/v1/responses", headers=UPGRADE, environ_overrides={"wsgi.url_scheme": "ws"})
    )
    assert answer.status_code == 426
    assert "POST" in answer.json["error"]["message"]


def test_connection_has_a_longest_duration(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "LONGEST", -1.0)
    client = connect(make_app(ScriptedDriver()))
    (error,) = ask(client)
    assert error["error"]["code"] == "websocket_connection_limit_reached"
    assert client.closed() == 1000


def test_number_of_connections_is_bounded(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "MOST_SOCKETS", 1)
    app = make_app(ScriptedDriver())
    first = connect(app)
    assert connect(app).head.startswith(b"HTTP/1.1 429")
    first.close()

    def fits() -> bool:
        client = connect(app)
        return client.head.startswith(b"HTTP/1.1 101")

    wait_until(fits)


def test_idle_connection_is_pinged(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "PING", 0.02)
    client = connect(make_app(ScriptedDriver()))
    assert client.sock.recv(2) == b"\x89\x00"
