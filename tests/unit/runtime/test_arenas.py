"""Native threads share a few arenas of malloc."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Each thread allocates outside the interpreter's lock, and all live at the same time.
COUNTING = """
import ctypes, sys, threading
from proxy.runtime.arenas import bound_arenas
libc = ctypes.CDLL(None)
libc.fopen.restype = libc.malloc.restype = ctypes.c_void_p
if sys.argv[1] == "bound":
    assert bound_arenas()
together = threading.Barrier(8)
def allocate():
    together.wait()
    libc.malloc(ctypes.c_size_t(1000))
    together.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
told = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, told)
libc.fclose(told)
"""


def _arenas(how: str, **env: str) -> int:
    command = [sys.executable, "-c", COUNTING, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, check=True)
    return done.stdout.count("<heap nr=")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_native_threads_share_two_arenas() -> None:
    try:
        free = _arenas("free")
    except subprocess.CalledProcessError:
        pytest.skip("this libc is not glibc")
    assert free > 2
    assert _arenas("bound") == 2


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_number_of_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from proxy.runtime.arenas import bound_arenas

    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    assert not bound_arenas()
