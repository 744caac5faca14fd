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


PIECES = """
from gevent import monkey
monkey.patch_all()
import socket, threading, time
sleep = monkey.get_original("time", "sleep")
from proxy.runtime.blocking import give_way, run_in_native_thread

pieces = [0]
here, there = socket.socketpair()
other = monkey.get_original("socket", "socket")(fileno=there.detach())
other.setblocking(True)  # its native thread waits

def answer():
    while data := here.recv(1):
        here.send(bytes(pieces))

def ask():
    passed = []
    for _ in range(20):
        sleep(0.003)  # into the middle of a piece
        before = pieces[0]
        other.send(b"?")
        passed.append((other.recv(1)[0] - before) % 256)
    other.close()
    return max(passed)

def work():
    while answering.is_alive():
        run_in_native_thread(int)  # wakes among other connections that have data
        for _ in range(4):
            end = time.monotonic() + 0.002
            while time.monotonic() < end:
                pass
            pieces[0] = (pieces[0] + 1) % 256
            give_way()

answering = threading.Thread(target=answer)
answering.start()
working = threading.Thread(target=work)
working.start()
print(run_in_native_thread(ask))
"""


def test_connections_are_served_between_pieces_of_work() -> None:
    command = [sys.executable, "-c", PIECES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert int(done.stdout) <= 1, "an answer waits for the end of the piece, not for the next one"
