"""Signals that reach a gunicorn worker before it has handlers of its own, and their handlers."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from proxy.config import Settings
from proxy.server.serve import gunicorn_options

# In a process of its own, since it forks and changes handlers.
SCRIPT = """
import logging, os, signal
from types import SimpleNamespace
from gunicorn.config import Config
from proxy.config.settings import Settings
from proxy.server.http1 import ConnectionLimits
from proxy.server.serve import gunicorn_options

hooks = options = gunicorn_options(Settings())

def spawn_worker():
    hooks["pre_fork"](arbiter, None)
    pid = os.fork()
    if pid:
        return pid
    os.kill(os.getpid(), signal.NUMBER)
    hooks["post_fork"](arbiter, worker)
    os._exit(0)  # the signal was lost, or waits

config = Config()
config.set("worker_class", options["worker_class"])
worker = SimpleNamespace(cfg=config, limits=ConnectionLimits(), ppid=os.getpid())
log = SimpleNamespace(error_log=logging.getLogger("gunicorn.error"))
arbiter = SimpleNamespace(cfg=config, spawn_worker=spawn_worker, stop=None, log=log)
signal.signal(signal.SIGTERM, lambda number, frame: None)  # the master's only records it
hooks["on_starting"](arbiter)
pid = arbiter.spawn_worker()
print(os.WTERMSIG(os.waitpid(pid, 0)[1]), *signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""
# Signals interrupt the main thread while it sets the same wakeup.
BURST = """
import os, signal, threading
from proxy.runtime.life import Wakeup

wake, seen = Wakeup(), []

def count():
    while wake.wait():
        seen.append(1)

threading.Thread(target=count, daemon=True).start()
signal.signal(signal.SIGHUP, lambda number, frame: wake.set())

def send():
    for _ in range(20000):
        os.kill(os.getpid(), signal.SIGHUP)

sending = threading.Thread(target=send)
sending.start()
while sending.is_alive():
    wake.set()
print(bool(seen))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn does not run on Windows")
def test_stop_that_comes_right_after_the_fork_ends_the_worker() -> None:
    done = _run(SCRIPT.replace("NUMBER", "SIGTERM"))
    assert done.stdout.split() == ["15"], done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn does not run on Windows")
def test_hangup_that_comes_right_after_the_fork_waits_until_the_worker_can_reload() -> None:
    done = _run(SCRIPT.replace("NUMBER", "SIGHUP"))
    assert done.stdout.split() == ["0"], done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn does not run on Windows")
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("worker_class", "gthread", "worker class gthread: slotproxy has its own"),
        ("certfile", "/c.pem", "TLS .* is not supported: put nginx or Caddy in front"),
        ("proxy_protocol", True, "set --trusted-proxies"),
        ("accesslog", "-", "slotproxy logs its requests itself"),
    ],
)
def test_settings_of_gunicorn_that_our_worker_lacks_are_refused(
    name: str, value: object, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from gunicorn.config import Config

    options = gunicorn_options(Settings())
    config = Config()
    config.set("worker_class", options["worker_class"])
    config.set(name, value)
    with pytest.raises(SystemExit, match="2"):
        log = SimpleNamespace(error_log=logging.getLogger("gunicorn.error"))
        options["on_starting"](SimpleNamespace(cfg=config, log=log))
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGHUP")
def test_signals_within_their_own_handler_block_nothing() -> None:
    done = _run(BURST)
    assert done.stdout.split() == ["True"], done.stderr


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
