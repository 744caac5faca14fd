"""Work in a native thread, where gevent has patched the process."""

from __future__ import annotations

import subprocess
import sys

CODE = """
from gevent import monkey
monkey.patch_all()
from proxy.runtime.blocking import NativeThreads, run_in_native_thread

def fail():
    raise ValueError("no")

for threads in (None, NativeThreads(1)):
    assert run_in_native_thread(lambda: 3, threads) == 3
    assert run_in_native_thread(lambda: run_in_native_thread(lambda: 4, threads), threads) == 4
    try:
        run_in_native_thread(fail, threads)
    except ValueError as error:
        assert str(error) == "no"
    else:
        raise SystemExit("it was lost")
"""


def test_exception_in_native_thread_reaches_only_its_caller() -> None:
    """gevent would write a traceback of it as well."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
