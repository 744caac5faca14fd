"""Serving: gunicorn with one gevent worker, or waitress. Never Flask's own server.

``gunicorn_options`` is the one description of how gunicorn serves; gunicorn.conf.py and the console
script both use it. The application is made inside the worker, after gevent has patched: nothing
imported here, or by ``proxy.config``, may import flask, requests or ssl.

SIGHUP reads the settings again and adds and drains backends, in the running process: the table of
slots stays.

Stopping (SIGTERM): no new connections, running answers go on for up to ``GRACE`` seconds, then the
rest is cut. SIGINT cuts at once under gunicorn.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from proxy import __version__, files_limit
from proxy.config import Settings, SettingsError, each_its_own, from_environment, one_worker

if TYPE_CHECKING:
    from flask import Flask

Reread = Callable[[], Settings]

GRACE = 30  # seconds running answers get after SIGTERM
# Seconds between two requests: longer than the 60 s after which common load balancers drop an idle
# connection. Who closes first decides whether requests are lost.
KEEPALIVE = 75
FORM = 1 << 20  # bytes of an upload beside its file
CANNOT_LOAD = 4  # gunicorn stops on this exit code of a worker, instead of starting it again


def say(text: str) -> None:
    """One line for who starts the server."""
    print(f"slotproxy: {text}", file=sys.stderr, flush=True)


def application(settings: Settings) -> Flask:
    """The WSGI application. A setting only it can judge (a template, say) ends the process with
    one line."""
    gc.disable()
    from proxy.app import create_app  # late: see the module's docstring

    try:
        app = create_app(settings)
    except SettingsError as error:
        say(str(error))
        raise SystemExit(CANNOT_LOAD) from None
    # What is loaded by now lives as long as the process, all but a fiftieth of it: the collector
    # need not look, neither meanwhile (a tenth of a start) nor later. What a request leaves behind
    # holds few cycles, so it need not look as often either.
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    gc.enable()
    return app


def run(settings: Settings, reread: Reread | None = None) -> int:
    """Serve until a signal; the exit code. `reread` gives the settings as they are by then."""
    if settings.server == "waitress":
        return _run_waitress(settings, reread or _from_environment)
    return _run_gunicorn(settings, reread or _from_environment)


def _from_environment() -> Settings:
    return from_environment(os.environ)


def _reload(app: Flask, reread: Reread) -> None:
    """Take up what changed of the backends; a setting that cannot be used changes nothing."""
    from proxy.app import reload

    try:
        reload(app, reread())
    except SettingsError as error:
        say(f"not reloaded: {error}")
    except Exception:  # the next signal must be heeded all the same
        logging.getLogger("slotproxy").exception("not reloaded, because of a defect")


def _on_hangup(app: Flask, reread: Reread) -> None:
    """SIGHUP only wakes the thread that does the work: under gevent a handler runs in the hub,
    where nothing may wait."""
    if not hasattr(signal, "SIGHUP"):
        return
    hung_up = threading.Event()

    def watch() -> None:
        while True:
            hung_up.wait()
            hung_up.clear()
            _reload(app, reread)

    threading.Thread(target=watch, name="hangup", daemon=True).start()
    signal.signal(signal.SIGHUP, lambda number, frame: hung_up.set())


def _tell_all(app: Flask, settings: Settings, addresses: list[str]) -> None:
    """With --all: the table of what is up, once that is known."""
    if settings.all:
        from proxy import overview
        from proxy.app import services_of

        overview.tell(services_of(app), settings, addresses, say)


def _announce(settings: Settings, addresses: list[str], how: str) -> None:
    """The line that says what is served. Tests and scripts wait for "listening on URL"."""
    for warning in settings.warnings:
        say(f"warning: {warning}")
    upstream = ", ".join(one.address for one in settings.backends)
    if settings.is_default:
        upstream += " or else the bundled model"
    where = " ".join(f"{address}{settings.api_prefix}" for address in addresses)
    keys = f"{len(settings.keys)} keys" if settings.keys else "no key needed"
    say(f"listening on {where} for {upstream} ({how}, {keys}, version {__version__})")


def _address(name: Any) -> str:
    """A socket's name as an address: (host, port, …), or the path of a Unix socket."""
    if not isinstance(name, tuple):
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"


# -- gunicorn --------------------------------------------------------------------------------------


def gunicorn_options(settings: Settings, reread: Reread | None = None) -> dict[str, Any]:
    """gunicorn's settings and hooks by name, as in a gunicorn.conf.py."""

    def on_starting(arbiter: Any) -> None:
        # Here, not in a check of our own settings: `gunicorn -w 2` and GUNICORN_CMD_ARGS end here.
        if arbiter.cfg.workers != 1 and (why := _not_several(settings, arbiter.cfg.workers)):
            say(why)
            raise SystemExit(2)
        files = files_limit.raise_limit()
        wanted = arbiter.cfg.worker_connections
        arbiter.cfg.set("worker_connections", files_limit.connections(files, wanted))
        # gunicorn's own way is another worker, beside the old one, with another table of slots.
        arbiter.reload = lambda: arbiter.kill_workers(signal.SIGHUP)

    def nworkers_changed(arbiter: Any, new: int, old: int | None) -> None:
        # SIGTTIN asks a running gunicorn for one more. `old` is None at the start (see above).
        if old is not None and new > 1 and (why := _not_several(settings, new)):
            say(why)
            arbiter.num_workers = 1

    def when_ready(arbiter: Any) -> None:
        if not gevent:
            _bound_times([one.sock for one in arbiter.LISTENERS], settings)
        names = [one.sock.getsockname() for one in arbiter.LISTENERS]
        _announce(settings, [*map(_address, names)], f"gunicorn, {settings.worker_class}")

    def post_fork(arbiter: Any, worker: Any) -> None:
        # Until it has its own, a worker has the master's handlers, which only note the signal: a
        # stop that comes that early would be lost, and waited out for GRACE seconds.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        if gevent:
            worker.limits = worker.limits._replace(body=settings.body_timeout)
            worker.send_timeout = settings.send_timeout

    def worker_int(worker: Any) -> None:
        # SIGINT is "at once". Threads that stream would hold the process up; greenlets do not.
        if settings.worker_class == "gthread":
            os._exit(0)

    def post_worker_init(worker: Any) -> None:
        _on_hangup(worker.wsgi, reread or _from_environment)
        names = [one.getsockname() for one in worker.sockets]
        if worker.age == 1:  # the first of several
            _tell_all(worker.wsgi, settings, [*map(_address, names)])

    def worker_exit(arbiter: Any, worker: Any) -> None:
        if worker.pid == os.getpid():  # the master says it too
            _end(sys.exception())

    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    gevent = settings.worker_class == "gevent"
    return {
        "bind": f"{host}:{settings.port}",
        "workers": settings.workers,
        "worker_class": "proxy.gevent_worker.Worker" if gevent else "gthread",
        "worker_connections": files_limit.MOST_CONNECTIONS,
        "threads": 1 if gevent else settings.threads,
        # A worker that shows no life for this long is killed. Long enough for one whose CPU is
        # taken by a model in the same process.
        "timeout": 120,
        "graceful_timeout": GRACE,
        "keepalive": KEEPALIVE,
        "accesslog": None,  # the application logs its requests, with what matters for them
        "loglevel": "debug" if settings.log_level == "debug" else "warning",
        "proc_name": "slotproxy",
        # gunicorn 25 and newer open a control socket in the home folder; one of its commands adds
        # workers.
        "control_socket_disable": True,
        "on_starting": on_starting,
        "nworkers_changed": nworkers_changed,
        "when_ready": when_ready,
        "post_fork": post_fork,
        "post_worker_init": post_worker_init,
        "worker_int": worker_int,
        "worker_exit": worker_exit,
    }


def _bound_times(listeners: list[socket.socket], settings: Settings) -> None:
    """Of sockets that threads wait for: accepted ones have these times from the one that listens.
    They count silence alone; a body that trickles is bounded by gevent's worker and waitress."""
    if sys.platform == "win32":
        return
    for sock in listeners:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(settings.send_timeout))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(settings.body_timeout))


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))


def _end(ending: BaseException | None) -> None:
    """End the process as the interpreter would, but for taking itself apart: native threads
    (gevent's pool, the stores') that wake meanwhile can crash, and it takes a tenth of a second.
    multiprocessing ends its children in the same way."""
    code = ending.code if isinstance(ending, SystemExit) else 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for the threads that are no daemons
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _not_several(settings: Settings, number: int) -> str:
    """Why there cannot be so many workers, "" where there can."""
    return each_its_own(settings) if settings.state else one_worker(number)


def _run_gunicorn(settings: Settings, reread: Reread) -> int:
    from gunicorn.app.base import BaseApplication

    class Server(BaseApplication):
        def load_config(self) -> None:
            for name, value in gunicorn_options(settings, reread).items():
                if name in self.cfg.settings:  # a name newer than the gunicorn at hand
                    self.cfg.set(name, value)

        def load(self) -> Flask:
            return application(settings)

    Server().run()  # ends by SystemExit
    return 0


# -- waitress --------------------------------------------------------------------------------------


def _run_waitress(settings: Settings, reread: Reread) -> int:
    import waitress
    from waitress import wasyncore

    from proxy.app import shows_key
    from proxy.http1 import Limits
    from proxy.waitress_edge import channel, look

    logging.getLogger("waitress").setLevel(
        logging.DEBUG if settings.log_level == "debug" else logging.ERROR
    )
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        say(f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}")
        return 1
    app = application(settings)
    server: Any = waitress.create_server(
        app,
        sockets=[listener],
        threads=settings.threads,
        connection_limit=files_limit.connections(files_limit.raise_limit()),
        asyncore_use_poll=True,  # select() ends at 1024 file numbers
        channel_timeout=KEEPALIVE,
        max_request_body_size=max(settings.max_body, settings.max_document) + FORM,
        # Reading on while a request is served is how waitress notices that its client has gone
        # (environ["waitress.client_disconnected"]).
        channel_request_lookahead=1,
        ident="slotproxy",
    )

    server.channel_class = channel(partial(shows_key, app))
    limits = Limits(body=settings.body_timeout)
    stopping: list[int] = []

    def stop(number: int, frame: Any) -> None:
        stopping.append(number)
        server.pull_trigger()  # the loop below sleeps in poll()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    _on_hangup(app, reread)
    addresses = [_address(listener.getsockname())]
    _announce(settings, addresses, f"waitress, {settings.threads} threads")
    _tell_all(app, settings, addresses)

    def step(seconds: float) -> None:
        wasyncore.loop(timeout=seconds, use_poll=True, map=server._map, count=1)

    while not stopping:
        step(1.0)
        look(server, limits, settings.send_timeout)
    wasyncore.dispatcher.close(server)  # the listening socket only: the answers go on
    end = time.monotonic() + GRACE
    while time.monotonic() < end and len(stopping) < 2 and _busy(server):
        step(0.1)
    server.task_dispatcher.shutdown(timeout=1)
    return 0


def _busy(server: Any) -> bool:
    return any(
        channel.requests or channel.total_outbufs_len for channel in server.active_channels.values()
    )
