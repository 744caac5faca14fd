"""Work in a native thread, where gevent has patched the process."""

from __future__ import annotations

import subprocess
import sys

CODE = """
from gevent import monkey
monkey.patch_all()
from proxy.aside import Threads, aside

def fail():
    raise ValueError("no")

for threads in (None, Threads(1)):
    assert aside(lambda: 3, threads) == 3
    assert aside(lambda: aside(lambda: 4, threads), threads) == 4
    try:
        aside(fail, threads)
    except ValueError as error:
        assert str(error) == "no"
    else:
        raise SystemExit("it was lost")
"""


def test_what_work_aside_raises_is_the_callers_alone() -> None:
    """gevent would write a traceback of it as well."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
