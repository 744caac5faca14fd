"""Starts the server: gunicorn with gevent workers, or waitress. Never Flask's development server.

The application is created inside the worker, after gevent has patched: nothing imported here, or by
``proxy.config``, may import flask, requests or ssl.

SIGHUP, or with --watch-config a change of the file, reads the settings again, and adds and drains
backends in the running process, so the table of slots stays.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import math
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy import __version__
from proxy.config import Settings, SettingsError, fixed, from_environment
from proxy.config.checks import changed, no_workers, programs
from proxy.config.data_folder import stored
from proxy.runtime import logs
from proxy.runtime.confinement import bound_malloc
from proxy.runtime.leash import end_with_parent
from proxy.runtime.life import CUT, GRACE, MARGIN, TWICE, Wakeup, shutdown_seconds
from proxy.runtime.logs import say as say  # part of this module's interface

if TYPE_CHECKING:
    from flask import Flask


INTERVAL = 1.0  # seconds between two looks at the files of --watch-config


class Watched:
    """Files and folders, whose times are looked at: network folders deliver no events."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = [os.path.expanduser(path) for path in paths if path]
        self._known = self._last = self._marks()

    def changed(self) -> bool:
        """Whether they have changed since the last True, and not any more since the last call: an
        editor may need several steps, and remove a file for a moment."""
        now = self._marks()
        settled, self._last = now == self._last, now
        if now == self._known or not settled or None in now:
            return False
        self._known = now
        return True

    def _marks(self) -> list[tuple[int, int, int] | None]:
        """What changes with each file; None for one that is not there."""
        marks: list[tuple[int, int, int] | None] = [None] * len(self._paths)
        for number, path in enumerate(self._paths):
            with contextlib.suppress(OSError):
                info = os.stat(path)
                marks[number] = info.st_mtime_ns, info.st_size, info.st_ino
        return marks


Reread = Callable[[], Settings]
_from_environment: Reread = partial(from_environment, os.environ)

# Windows has no SIGQUIT.
STOPS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGQUIT") if hasattr(signal, name)
)
HANGUP = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()
# Idle seconds: longer than the 60 s after which common load balancers close a connection. If the
# server closed it first, a request could be lost.
KEEPALIVE = 75
WORKER = "proxy.server.worker.Worker"
FORM = 1 << 20  # bytes of an upload besides its file
SHOWN = 8  # backends that the line of the start names
CTRL_C = 130  # the exit code of a shell for it
CANNOT_LOAD = 4  # on this exit code of a worker, gunicorn stops instead of starting another
NOISE = re.compile(f"exited with code {CANNOT_LOAD}|^Shutting down: |^Reason: App failed")


def application(settings: Settings) -> Flask:
    """The WSGI application. A wrong setting ends the process with one line."""
    gc.disable()
    from proxy.app import create_app  # imported late: see the module's docstring

    try:
        app = create_app(settings)
    except SettingsError as error:
        say(str(error), logging.ERROR)
        raise SystemExit(CANNOT_LOAD) from None
    # Nearly everything loaded by now lives as long as the process, so the garbage collector is off
    # meanwhile (a tenth of the start) and ignores it later. Requests leave few cycles behind, so it
    # may also run less often. What requests under way hold is looked at sooner.
    gc.freeze()
    gc.set_threshold(10_000, 5, 20)
    gc.enable()
    return app


def run(settings: Settings, reread: Reread) -> int:
    """Serve until a signal. Returns the exit code. `reread` returns the current settings."""
    if settings.server == "waitress":
        return _run_waitress(settings, reread)
    from gunicorn.app.base import BaseApplication

    class Server(BaseApplication):
        def load_config(self) -> None:
            for name, value in gunicorn_options(settings, reread).items():
                if name in self.cfg.settings:  # older versions of gunicorn lack some names
                    self.cfg.set(name, value)

        def load(self) -> Flask:
            return application(settings)

    Server().run()  # ends with SystemExit
    return 0


def _reload(app: Flask, began: Settings, reread: Reread) -> bool:
    """Apply changed backends and keys; `began` are the settings of the start. Returns whether the
    settings were usable; if not, nothing has changed."""
    from proxy.app import reload

    try:
        settings = reread()
        warnings = *settings.warnings, *programs(settings)
        reload(app, settings)
        if names := changed(began, settings):
            warnings = *warnings, f"changed, but applied only by a restart: {', '.join(names)}"
        for warning in warnings:
            say(warning, logging.WARNING)
        return True
    except SettingsError as error:
        say(f"not reloaded: {error}", logging.ERROR)
    except Exception:  # the next signal must still work
        logging.getLogger("slotproxy").exception("not reloaded: unhandled exception")
    return False


def _reload_first(app: Flask, began: Settings, reread: Reread) -> None:
    """Reload in a worker that replaces another one. If its keys, those of the start, cannot be read
    again, one that was revoked since must not come back."""
    from proxy.app import suspend_keys

    if not _reload(app, began, reread) and suspend_keys(app):
        why = "until the settings can be read: correct them and reload (kill -HUP)"
        say(f"the API keys of the settings are refused by this worker {why}", logging.ERROR)


def _on_change(app: Flask, settings: Settings, reread: Reread) -> None:
    """Reload at SIGHUP, or when a file changes. A handler may not wait, so a thread reloads."""
    from proxy.app import life_of

    wake = Wakeup()
    life_of(app).reload = wake.set
    paths = [settings.config_file, settings.models_dir]
    files = Watched(paths) if settings.watch_config else None

    def reload() -> None:
        while True:
            if wake.wait(INTERVAL if files else None) or (files and files.changed()):
                _reload(app, settings, reread)

    threading.Thread(target=reload, name="reload", daemon=True).start()
    for number in HANGUP:
        signal.signal(number, lambda number, frame: wake.set())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANGUP)  # see spawn_without_signals


# -- whether slotproxy can listen at an address, and if not, why and what to do

PATIENCE = 0.3  # seconds for the worker of a killed slotproxy to end
PAUSE = 0.05  # seconds between two tries
LISTENS = "0A"  # the state of a socket in /proc/net/tcp
REMEDIES = {
    errno.EACCES: "this user may not; choose a port above 1023 with --port",
    errno.EADDRNOTAVAIL: "this machine has no such address; --host 0.0.0.0 is all of them",
}


def obstacle(host: str, port: int) -> str:
    """Why nothing can listen there, "" if it can."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
                if os.name != "nt":  # there it would share the port
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
            return ""
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                why = REMEDIES.get(error.errno or 0, str(error))
            elif time.monotonic() >= end:
                why = f"{holder(port)} uses the port; choose another with --port, or end it"
            else:
                time.sleep(PAUSE)
                continue
            return f"cannot listen on {host}:{port}: {why}"


def holder(port: int) -> str:
    """Who listens on a port, as far as /proc shows it to this user."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    for folder in Path("/proc").glob("[0-9]*") if sockets else ():
        with contextlib.suppress(OSError):
            if any(os.readlink(file) in sockets for file in (folder / "fd").iterdir()):
                words = (folder / "cmdline").read_text().split("\0")
                name = "python -m proxy" if words[1:3] == ["-m", "proxy"] else Path(words[0]).name
                return f"{name} (process {folder.name})"
    return "another program"


def _listening(port: int) -> Iterator[str]:
    for file in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        rows = file.read_text().splitlines()[1:] if file.exists() else ()
        for row in map(str.split, rows):
            if row[3] == LISTENS and int(row[1].rpartition(":")[2], 16) == port:
                yield row[9]


def _check(addresses: Sequence[Any]) -> None:
    """End the process with one line that says why it cannot listen."""
    for address in addresses:
        if isinstance(address, tuple) and (why := obstacle(*address[:2])):
            say(why, logging.ERROR)
            raise SystemExit(1)


def _announce(settings: Settings, addresses: list[str], how: str) -> None:
    """Print the line that says what is served. Tests and scripts wait for "listening on URL"."""
    for warning in (*settings.warnings, *programs(settings)):
        say(warning, logging.WARNING)
    names = [backend.address.replace("model:", "model ") for backend in settings.backends]
    upstream = ", ".join(dict.fromkeys(names[:SHOWN])) + (", …" if len(names) > SHOWN else "")
    where = " ".join(f"{address}{settings.api_prefix}" for address in addresses)
    keys = f"{len(settings.keys)} keys" if settings.keys else "no API key required"
    say(f"data: {stored(settings)}")
    say(f"listening on {where} for {upstream} ({how}, {keys}, version {__version__})")


def _address(name: Any) -> str:
    """A socket's name as an address: (host, port, …), or the path of a Unix socket."""
    if not isinstance(name, tuple):
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"


# -- open files: the limit, raised to what the system allows, and how many connections fit in it

FOR_OTHERS = 100  # files other than client connections: model servers, databases, pipes, logs
MOST_CONNECTIONS = 8192  # each takes some 20 to 30 kB
_MOST_FILES = 1 << 20  # a hard limit may be "infinite", which some systems refuse as a soft one


def raise_limit() -> int:
    """Raise the soft limit to the hard one. Returns it; Windows has none."""
    try:
        import resource
    except ImportError:
        return _MOST_FILES
    limit: Any = resource.RLIMIT_NOFILE
    soft, hard = resource.getrlimit(limit)
    for most in (hard, min(hard, _MOST_FILES), 10240):
        if resource.RLIM_INFINITY not in (most, soft) and most > soft:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(limit, (most, hard))
                break
    soft = resource.getrlimit(limit)[0]
    return _MOST_FILES if soft == resource.RLIM_INFINITY else soft


def connections(files: int, most: int = MOST_CONNECTIONS) -> int:
    """The number of connections to allow with so many open files."""
    return max(16, min(most, files - FOR_OTHERS))


# -- gunicorn --------------------------------------------------------------------------------------


def gunicorn_options(settings: Settings, reread: Reread = _from_environment) -> dict[str, Any]:
    """gunicorn's settings and hooks by name, as in a gunicorn.conf.py."""

    def on_starting(arbiter: Any) -> None:
        logs.begin(settings.log_format, settings.log_level)
        if arbiter.cfg.errorlog == "-":  # gunicorn's messages are lines of our log
            arbiter.log.error_log.handlers.clear()
            arbiter.log.error_log.propagate = True
        # Behind the reason why a worker cannot load, which is said there.
        arbiter.log.error_log.addFilter(lambda record: not NOISE.search(record.getMessage()))
        # Checked here as well, because `gunicorn -w 2` and GUNICORN_CMD_ARGS bypass our settings.
        if why := no_workers(settings, arbiter.cfg.workers) or _not_served(arbiter.cfg):
            say(why, logging.ERROR)
            raise SystemExit(2)
        is_ours = {"GUNICORN_FD", "LISTEN_FDS"} & os.environ.keys() or arbiter.cfg.reuse_port
        _check(() if is_ours else arbiter.cfg.address)
        files = raise_limit()
        configured = arbiter.cfg.worker_connections
        arbiter.cfg.set("worker_connections", connections(files, configured))
        # Its own clock, after which it kills, must be longer than ours.
        arbiter.cfg.set("graceful_timeout", arbiter.cfg.graceful_timeout + shutdown)
        # gunicorn's own way is a second worker beside the old one, with another table of slots.
        arbiter.reload = lambda: arbiter.kill_workers(signal.SIGHUP)
        spawn_worker = arbiter.spawn_worker

        def spawn_without_signals() -> Any:
            # A worker unblocks SIGHUP once it can reload: until then, the signal would end it.
            signal.pthread_sigmask(signal.SIG_BLOCK, (*STOPS, *HANGUP))
            try:
                return spawn_worker()
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOPS, *HANGUP))

        arbiter.spawn_worker = spawn_without_signals
        stop = arbiter.stop

        def stop_impatiently(graceful: bool = True) -> None:
            pressed = math.inf if graceful else time.monotonic()

            def again(number: int, frame: Any) -> None:
                nonlocal pressed
                if time.monotonic() > pressed + TWICE:
                    arbiter.kill_workers(signal.SIGKILL)
                    os._exit(CTRL_C)
                pressed = min(pressed, time.monotonic())
                arbiter.kill_workers(signal.SIGQUIT)

            signal.signal(signal.SIGINT, again)
            stop(graceful)

        arbiter.stop = stop_impatiently

    def when_ready(arbiter: Any) -> None:
        names = [listener.sock.getsockname() for listener in arbiter.LISTENERS]
        _announce(settings, [*map(_address, names)], "gunicorn, gevent")

    def pre_fork(arbiter: Any, worker: Any) -> None:
        # The garbage collector writes to what it looks at: pages that are frozen stay shared.
        gc.freeze()

    def post_fork(arbiter: Any, worker: Any) -> None:
        # Until it has its own, a worker has the master's handlers, which only record the signal: an
        # early stop would be lost, and take GRACE seconds. Signals wait since before the fork.
        for number in STOPS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        bound_malloc()
        end_with_parent()
        if os.getppid() != worker.ppid:
            os._exit(1)  # it ended before
        worker.grace = worker.cfg.graceful_timeout - shutdown
        worker.limits = worker.limits._replace(body=fixed.BODY_TIMEOUT)
        worker.send_timeout = fixed.SEND_TIMEOUT

    def post_worker_init(worker: Any) -> None:
        from proxy.app import life_of

        worker.life = life_of(worker.wsgi)
        if worker.age > settings.workers:  # it replaces one that may have reloaded
            _reload_first(worker.wsgi, settings, reread)
        _on_change(worker.wsgi, settings, reread)

    def worker_exit(arbiter: Any, worker: Any) -> None:
        if worker.pid != os.getpid():
            return  # gunicorn calls this in the master too
        ending = sys.exception()
        code = ending.code if isinstance(ending, SystemExit) else 1
        if worker.life is not None:
            worker.life.close(shutdown - CUT - MARGIN)
        _leave(code if isinstance(code, int) else int(code is not None))

    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    shutdown = shutdown_seconds(model.stop_timeout for model in settings.model)
    return {
        "bind": f"{host}:{settings.port}",
        "workers": settings.workers,
        "worker_class": WORKER,
        "worker_connections": MOST_CONNECTIONS,
        # A worker without a heartbeat for this long is killed. It is long enough for one whose CPU
        # is busy with a model in the same process.
        "timeout": 120,
        "graceful_timeout": GRACE,  # see on_starting
        "keepalive": KEEPALIVE,
        "accesslog": None,  # the application logs its requests itself
        "loglevel": "debug" if settings.log_level == "debug" else "warning",
        "proc_name": "slotproxy",
        # gunicorn 25 and newer open a control socket in the home folder; one of its commands adds
        # workers.
        "control_socket_disable": True,
        "on_starting": on_starting,
        "when_ready": when_ready,
        "pre_fork": pre_fork,
        "post_fork": post_fork,
        "post_worker_init": post_worker_init,
        "worker_exit": worker_exit,
    }


def _leave(code: int) -> None:
    """End the process before the interpreter is torn down, which native threads can crash."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the pipe may be closed
            stream.flush()
    os._exit(code)


def _not_served(cfg: Any) -> str:
    """Why gunicorn's own settings cannot be served, "" if they can: our worker has its own HTTP."""
    worker = cfg.settings["worker_class"].get()
    if worker != WORKER:
        return f"worker class {worker}: slotproxy has its own worker; remove -k"
    if cfg.is_ssl:
        return "gunicorn's TLS (certfile, keyfile) is not supported: put nginx or Caddy in front"
    if cfg.proxy_protocol not in (False, "off"):  # gunicorn 24 made a version of the flag
        return "proxy_protocol is not supported: send X-Forwarded-For, and set --trusted-proxies"
    if cfg.accesslog:
        return "gunicorn's access log is not supported: slotproxy logs its requests itself"
    return ""


# -- waitress --------------------------------------------------------------------------------------


def _run_waitress(settings: Settings, reread: Reread) -> int:
    import waitress
    from waitress import wasyncore

    from proxy.app import life_of, shows_key
    from proxy.server.http1 import ConnectionLimits
    from proxy.server.waitress_edge import channel, look

    logs.begin(settings.log_format, settings.log_level)
    level = logging.DEBUG if settings.log_level == "debug" else logging.ERROR
    logging.getLogger("waitress").setLevel(level)
    _check([(settings.host, settings.port)])
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    app = application(settings)
    server: Any = waitress.create_server(
        app,
        sockets=[listener],
        threads=fixed.THREADS,
        connection_limit=connections(raise_limit()),
        asyncore_use_poll=True,  # select() is limited to file descriptors below 1024
        channel_timeout=KEEPALIVE,
        max_request_body_size=max(settings.max_body, settings.max_document) + FORM,
        # Without reading ahead during a request, waitress does not notice a disconnected client
        # (environ["waitress.client_disconnected"]).
        channel_request_lookahead=1,
        log_socket_errors=False,  # clients leave, and answers that broke off end their connections
        ident="slotproxy",
    )

    server.channel_class = channel(partial(shows_key, app))
    limits = ConnectionLimits(body=fixed.BODY_TIMEOUT)
    life = life_of(app)
    signals: list[int] = []

    def stop(number: int, frame: Any) -> None:
        if number == signal.SIGINT and number in signals:
            os._exit(CTRL_C)
        signals.append(number)
        server.pull_trigger()  # wakes the loop below from poll()

    def step(seconds: float) -> None:
        wasyncore.loop(timeout=seconds, use_poll=True, map=server._map, count=1)

    def busy() -> bool:
        channels = server.active_channels.values()
        return life.busy or any(c.requests or c.total_outbufs_len for c in channels)

    def work(seconds: float, until: signal.Signals | None = None) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and until not in signals and busy():
            step(0.1)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    _on_change(app, settings, reread)
    addresses = [_address(listener.getsockname())]
    _announce(settings, addresses, f"waitress, {fixed.THREADS} threads")
    while not signals:
        step(1.0)
        look(server, limits, fixed.SEND_TIMEOUT)
    wasyncore.dispatcher.close(server)  # the listening socket only; running answers continue

    life.leave()
    work(GRACE, until=signal.SIGINT)
    life.end_requests()
    work(CUT)
    server.task_dispatcher.shutdown(timeout=1)
    life.close(shutdown_seconds(model.stop_timeout for model in settings.model) - CUT)
    return 0
