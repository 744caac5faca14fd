"""Signals that reach a gunicorn worker before it has handlers of its own."""

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
    os.kill(os.getpid(), signal.SIGTERM)
    hooks["post_fork"](arbiter, None)
    os._exit(0)  # the signal was lost

config = SimpleNamespace(workers=1, worker_connections=64, set=lambda name, value: None)
arbiter = SimpleNamespace(cfg=config, spawn_worker=spawn_worker)
signal.signal(signal.SIGTERM, lambda number, frame: None)  # the master's only records it
hooks["on_starting"](arbiter)
pid = arbiter.spawn_worker()
print(os.WTERMSIG(os.waitpid(pid, 0)[1]), *signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn does not run on Windows")
def test_stop_that_comes_right_after_the_fork_ends_the_worker() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.stdout.split() == ["15"], done.stderr
