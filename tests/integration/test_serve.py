"""Serving itself: each WSGI server, started each way, with a small application in place of ours."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from proxy.server.serve import CTRL_C
from tools.processes import Child

from .child_processes import children
from .conftest import StartGateway

# proxy.app as the children see it. Flask is imported when the application is made, in the worker.
STUB = """
import sys, types

def create_app(settings):
    import gc, ssl, threading, time
    from flask import Flask, Response, request, stream_with_context
    from proxy.config import SettingsError
    if settings.system_name == "none-such":
        raise SettingsError("--system-name: there is no none-such")
    app = Flask("stub")

    @app.get("/readyz")
    def readyz():
        return {
            "frozen": gc.get_freeze_count() > 0,
            "environ": sorted(k for k in request.environ if k.startswith(("gunicorn", "waitress"))),
            "greenlets": "gevent" in type(threading.local()).__module__,
        }

    @app.get("/stream")
    def stream():
        def parts():
            for n in range(int(request.args["n"])):
                yield f"{n}\\n"
                time.sleep(0.2)
        return Response(stream_with_context(parts()), mimetype="text/plain")

    @app.post("/size")
    def size():
        return {"size": len(request.get_data())}

    @app.get("/ends")
    def ends():
        import os
        class Held:
            def __del__(self, write=os.write):
                write(2, b"taken apart\\n")
        module.held = Held()
        return {}

    return app

class Life:
    busy = False

    def leave(self):
        pass

    def end_requests(self):
        pass

    def close(self, seconds=0):
        if hasattr(module, "held"):
            print("closed", file=sys.stderr)

life = Life()
module = types.ModuleType("proxy.app")
module.create_app = create_app
module.life_of = lambda app: life
module.reload = lambda app, settings: None
module.suspend_keys = lambda app: False
module.shows_key = lambda app, environ: "HTTP_AUTHORIZATION" in environ
sys.modules["proxy.app"] = module
"""
SLOTPROXY = STUB + "from proxy.__main__ import main; sys.exit(main())"
GUNICORN = STUB + "from gunicorn.app.wsgiapp import run; sys.argv[0] = 'gunicorn'; sys.exit(run())"

WAYS: dict[str, tuple[str, list[str], dict[str, str]]] = {
    "slotproxy": (SLOTPROXY, ["--port", "0"], {}),
    "waitress": (SLOTPROXY, ["--port", "0", "--server", "waitress"], {}),
    "gunicorn": (GUNICORN, ["proxy.wsgi"], {"SLOTPROXY_PORT": "0"}),
}


class Server(Child):
    """A child process that serves the stub."""

    def wait_url(self) -> str:
        """The address in its log."""
        end = time.monotonic() + 60
        while not (match := re.search(r"listening on (\S+) for ", self.log, re.M)):
            if not self.alive or time.monotonic() > end:
                raise self.fail("does not listen")
            time.sleep(0.02)
        return match[1]


Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Server] = []

    def begin(code: str, args: Sequence[str], env: Mapping[str, str] | None = None) -> Server:
        log = tmp_path / f"{len(started)}.log"
        # Warnings are errors here too: gevent's about patching too late is one. But not about
        # sockets: gunicorn leaves its own to the collector when it gives up.
        strict = ["-W", "error", "-W", "ignore::ResourceWarning"]
        server = Server([sys.executable, *strict, "-c", code, *args], log, env)
        started.append(server)
        server.launch()
        return server

    yield begin
    for server in started:
        server.kill()


@pytest.fixture(params=WAYS)
def served(request: pytest.FixtureRequest, start: Start) -> tuple[Server, str]:
    server = start(*WAYS[request.param])
    return server, server.wait_url()


@contextlib.contextmanager
def _opened(url: str, path: str) -> Iterator[http.client.HTTPResponse]:
    """The answer to a GET, on a connection that stays open until the end of the block."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    connection.request("GET", path)
    with contextlib.closing(connection), connection.getresponse() as answer:
        yield answer


def test_streams_are_unbuffered_and_finish_on_graceful_stop(
    served: tuple[Server, str],
) -> None:
    server, url = served
    arrived = []
    refused = 0  # parts before which a new connection was refused
    with _opened(url, "/stream?n=20") as answer:
        assert answer.readline() == b"0\n"
        server.send(signal.SIGTERM)
        for number in range(1, 20):
            assert answer.readline() == b"%d\n" % number, "the stream was cut"
            arrived.append(time.monotonic())
            try:
                if number >= 8:  # a busy machine delivers the signal later
                    with _opened(url, "/readyz"):
                        pass
            except ConnectionError:
                refused += 1
        assert answer.read() == b""
    assert refused, "it takes new connections"
    assert arrived[-1] - arrived[0] > 0.1, "the parts came together"
    assert server.wait() == 0
    assert "Error" not in server.log
    assert server.log.count("\n") == 2, server.log  # what is stored, and what is served


def test_kept_alive_connection_does_not_delay_the_stop(served: tuple[Server, str]) -> None:
    server, url = served
    with _opened(url, "/readyz") as answer:
        answer.read()
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 25
    assert "Error" not in server.log


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="the worker's number is read from /proc")
def test_request_arriving_during_stop_is_answered(start: Start) -> None:
    server = start(*WAYS["slotproxy"])
    url = server.wait_url()
    with _opened(url, "/readyz") as answer:  # its worker serves
        answer.read()
    worker, *_ = children(server.pid)
    os.kill(worker, signal.SIGSTOP)  # so that it sees all of them, and the signal, in one turn
    connections = [http.client.HTTPConnection(url.removeprefix("http://")) for _ in range(8)]
    for connection in connections:
        connection.request("GET", "/readyz")
    os.kill(worker, signal.SIGTERM)
    os.kill(worker, signal.SIGCONT)
    for connection in connections:
        with contextlib.closing(connection), connection.getresponse() as answer:
            assert answer.status == 200
    assert server.stop() == 0
    assert "Error" not in server.log


@pytest.mark.parametrize("way", ["slotproxy", "gunicorn"])
def test_worker_closes_resources_and_exits_cleanly(start: Start, way: str) -> None:
    """An interpreter that finalizes while native threads run can crash."""
    server = start(*WAYS[way])
    with _opened(server.wait_url(), "/ends") as answer:
        assert answer.status == 200
    assert server.stop() == 0
    assert server.log.splitlines()[2:] == ["closed"]


def test_stop_during_start_is_not_lost(gateway: StartGateway) -> None:
    running = gateway("--llama-api", "http://127.0.0.1:9", ready=0)
    began = time.monotonic()
    assert running.stop() == 0
    assert time.monotonic() - began < 25


def test_second_ctrl_c_ends_at_once(served: tuple[Server, str]) -> None:
    server, url = served
    with _opened(url, "/stream?n=1000") as answer:
        assert answer.readline() == b"0\n"
        began = time.monotonic()
        # Repeatedly, as at a keyboard: the second ends what the first one left.
        while server.alive and time.monotonic() - began < 20:
            server.send(signal.SIGINT)
            time.sleep(0.5)
        assert server.wait() == CTRL_C
    assert "Error" not in server.log


@pytest.mark.parametrize(
    ("code", "args", "env"),
    [
        (SLOTPROXY, ["--workers", "2"], {}),
        (SLOTPROXY, [], {"WEB_CONCURRENCY": "2"}),
        (GUNICORN, ["proxy.wsgi"], {"WEB_CONCURRENCY": "2"}),
        (GUNICORN, ["-w", "2", "proxy.wsgi"], {}),
        (GUNICORN, ["proxy.wsgi"], {"GUNICORN_CMD_ARGS": "--workers 2"}),
    ],
)
def test_more_than_one_worker_is_refused_with_one_line(
    start: Start, code: str, args: list[str], env: dict[str, str]
) -> None:
    server = start(code, args, {"SLOTPROXY_PORT": "0", **env})
    assert server.wait() == 2
    (line,) = server.log.splitlines()
    assert re.search(r"(: |\")(\S+: )?2 workers require --state redis:.*", line)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("setting", "value", "code", "message"),
    [
        (
            *("TIMEOUT", "soon", 2),
            "SLOTPROXY_TIMEOUT: expected a number greater than 0 and at most a year, got 'soon'",
        ),
        ("SYSTEM_NAME", "none-such", 4, "--system-name: there is no none-such"),
    ],
    ids=["settings", "application"],
)
def test_invalid_setting_stops_the_start(
    start: Start, way: str, setting: str, value: str, code: int, message: str
) -> None:
    program, args, env = WAYS[way]
    server = start(program, args, {**env, f"SLOTPROXY_{setting}": value})
    assert server.wait() == code
    assert f"slotproxy: {message}\n" in server.log or f'"message":"{message}"}}\n' in server.log
    assert "Traceback" not in server.log
    assert "Shutting down" not in server.log  # gunicorn's own words, which say nothing more


@pytest.mark.parametrize("way", ["slotproxy", "waitress"])
def test_port_in_use_stops_the_start(start: Start, way: str) -> None:
    code, args, env = WAYS[way]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        server = start(code, [*args, "--port", port], env)
        assert server.wait() == 1
    (line,) = server.log.splitlines()
    assert f"cannot listen on 127.0.0.1:{port}: " in line
    assert "choose another with --port" in line


@pytest.mark.parametrize("way", ["slotproxy", "waitress"])
def test_missing_llama_server_stops_the_start(start: Start, way: str, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    code, args, env = WAYS[way]
    more = ["--models-dir", str(tmp_path), "--llama-server", "/no/llama-server"]
    server = start(code, [*args, *more], env)
    assert server.wait() == 2
    (line,) = server.log.splitlines()
    assert "--llama-server: /no/llama-server does not exist" in line


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, a worker looks once a second")
def test_killed_master_leaves_its_port(start: Start) -> None:
    server = start(*WAYS["slotproxy"])
    url = server.wait_url()
    with _opened(url, "/stream?n=1000") as answer:
        assert answer.readline() == b"0\n"
        server.kill()
        code, args, env = WAYS["slotproxy"]
        again = start(code, [*args, "--port", url.rpartition(":")[2]], env)
        assert again.wait_url() == url


@pytest.mark.parametrize("way", ["slotproxy", "waitress"])
def test_ipv6_address_is_served_and_logged(start: Start, way: str) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    code, args, env = WAYS[way]
    more = ["--host", "::1", "--llama-api", "http://a:1,http://b:2", "--api-prefix", "llm"]
    server = start(code, [*args, *more, "--api-key", "sk-1,sk-2"], env)
    assert re.fullmatch(r"http://\[::1\]:\d+/llm", server.wait_url())
    assert "/llm for http://a:1, http://b:2 (" in server.log
    assert "2 keys" in server.log
    assert "sk-" not in server.log


def test_python_m_proxy_equals_the_script(start: Start, tmp_path: Path) -> None:
    code = "import sys; from importlib.metadata import entry_points as e; "
    code += "(script,) = e(group='console_scripts', name='slotproxy'); sys.exit(script.load()())"
    by_script = start(code, ["--port", "x"])
    by_module = Server([sys.executable, "-m", "proxy", "--port", "x"], tmp_path / "module.log")
    by_module.launch()
    assert by_script.wait() == by_module.wait() == 2
    assert by_script.log == by_module.log
    assert by_script.log.startswith("slotproxy: --port: expected")
