"""malloc keeps little freed memory."""

from __future__ import annotations

import platform
import re
import subprocess
import sys

import pytest

# Prints the report of malloc_info after BODY, which may bound it first.
REPORT = """
import ctypes, sys, threading
from proxy.runtime.confinement import bound_malloc, trim_malloc
libc = ctypes.CDLL(None)
libc.fopen.restype = libc.malloc.restype = ctypes.c_void_p
def malloc(size): return ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size)))
if sys.argv[1] == "bound":
    assert bound_malloc()
BODY
told = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, told)
libc.fclose(told)
"""
# Each thread allocates outside the interpreter's lock, and all live at the same time.
THREADS = """
together = threading.Barrier(8)
def allocate():
    together.wait()
    malloc(1000)
    together.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
HOLES = """
blocks = [malloc(10_000) for _ in range(2000)]
for block in blocks: ctypes.memset(block, 1, 10_000)
for n, block in enumerate(blocks):
    if n % 50: libc.free(block)
def resident(): return int(open("/proc/self/statm").read().split()[1]) * 4096
before = resident()
trim_malloc()
print("trimmed", before - resident())
"""
LARGE = """
libc.free(malloc(16 << 20))
malloc(8 << 20)
"""


def report(body: str, how: str, **env: str) -> str:
    command = [sys.executable, "-c", REPORT.replace("BODY", body), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, check=True)
    return done.stdout


pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")


def arenas(how: str, **env: str) -> int:
    return report(THREADS, how, **env).count("<heap nr=")


def mapped(how: str, **env: str) -> int:
    """The blocks that are mapped by themselves."""
    counts = re.findall(r'<total type="mmap" count="(\d+)"', report(LARGE, how, **env))
    return int(counts[-1])


def test_native_threads_share_two_arenas() -> None:
    assert arenas("free") > 2
    assert arenas("bound") == 2


def test_large_blocks_are_returned_also_after_a_larger_one() -> None:
    assert mapped("bound") == mapped("free") + 1


def test_what_is_free_between_used_blocks_is_returned() -> None:
    trimmed = re.search(r"trimmed (\d+)", report(HOLES, "bound"))
    assert trimmed is not None
    assert int(trimmed[1]) > 10 << 20, "of 20 MB"


def test_values_of_the_environment_come_first() -> None:
    assert arenas("bound", MALLOC_ARENA_MAX="4") == 4
    assert mapped("bound", MALLOC_MMAP_THRESHOLD_=str(32 << 20)) < mapped("bound")
