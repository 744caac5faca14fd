"""Signals that reach a gunicorn worker before it has handlers of its own, and their handlers."""

from __future__ import annotations

import subprocess
import sys

import pytest

# In a process of its own, since it forks and changes handlers.
SCRIPT = """
import os, signal
from types import SimpleNamespace
from proxy.config.settings import Settings
from proxy.server.serve import gunicorn_options

hooks = gunicorn_options(Settings(worker_class="gthread"))

def spawn_worker():
    hooks["pre_fork"](arbiter, None)
    pid = os.fork()
    if pid:
        return pid
    os.kill(os.getpid(), signal.NUMBER)
    hooks["post_fork"](arbiter, None)
    os._exit(0)  # the signal was lost, or waits

config = SimpleNamespace(
    workers=1, worker_connections=64, graceful_timeout=30, set=lambda name, value: None
)
arbiter = SimpleNamespace(cfg=config, spawn_worker=spawn_worker)
signal.signal(signal.SIGTERM, lambda number, frame: None)  # the master's only records it
hooks["on_starting"](arbiter)
pid = arbiter.spawn_worker()
print(os.WTERMSIG(os.waitpid(pid, 0)[1]), *signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""
# Signals interrupt the main thread while it sets the same wakeup.
BURST = """
import os, signal, threading
from proxy.server.stopping import Wakeup

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


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGHUP")
def test_signals_within_their_own_handler_block_nothing() -> None:
    done = _run(BURST)
    assert done.stdout.split() == ["True"], done.stderr


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
