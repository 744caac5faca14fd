"""The tests of the upstream client again under gevent, where reads wait in the hub; in a child
process, since gevent patches the whole process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
from gevent import monkey
monkey.patch_all()
import socket, sys, pytest
from proxy.backends.connections import Connection, _InHub
here, there = socket.socketpair()
assert type(Connection(here).reader(1.0)) is _InHub
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", sys.argv[1]]))
"""


@pytest.mark.slow
def test_client_tests_pass_under_gevent() -> None:
    tests = Path(__file__).with_name("test_http.py")
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tests)], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
