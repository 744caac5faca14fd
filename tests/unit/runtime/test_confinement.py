"""What a helper may reach, whatever it is made to do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.runtime.confinement import command, environment, landlock

linux = pytest.mark.skipif(landlock() < 4, reason="needs Landlock of Linux 6.7")

# A document whose parser does what its author wants, in the real child. It names its reach.
HOSTILE = """
import ctypes, os, socket, sys
from proxy.knowledge import extract
from proxy.knowledge.splitting import Section
from proxy.runtime.confinement import confine

folder, secret, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
libc = ctypes.CDLL(None)

def connect():
    # as native code does, unseen by the audit hook
    sock = socket.socket()
    address = b"\\x02\\x00" + port.to_bytes(2, "big") + b"\\x7f\\x00\\x00\\x01" + bytes(8)
    assert libc.connect(sock.fileno(), address, 16) == 0

def native(path, flags):
    assert libc.open(path.encode(), flags, 0o600) >= 0

TRIES = {
    "write": lambda: open(folder + "/new", "w"),
    "write natively": lambda: native(folder + "/new", os.O_WRONLY | os.O_CREAT),
    "change": lambda: open(secret, "r+"),
    "truncate": lambda: os.truncate(secret, 0),
    "mkdir": lambda: os.mkdir(folder + "/made"),
    "link": lambda: os.symlink("/", folder + "/link"),
    "read": lambda: open(secret).read(),
    "environ": lambda: open(f"/proc/{os.getppid()}/environ", "rb").read(),
    "connect": connect,
    "connect in Python": lambda: socket.create_connection(("127.0.0.1", port), 2),
    "signal": lambda: os.kill(os.getppid(), 0),
    "program": lambda: sys.exit(0) if libc.system(b"true") == 0 else 1 / 0,
}

def read(kind, end, file):
    import markitdown, pypdfium2  # readers need both
    for name, attempt in TRIES.items():
        try:
            attempt()
        except BaseException as error:
            if not isinstance(error, SystemExit):
                continue
        yield 1.0, Section("", "reached: " + name)
    yield 1.0, Section("", "at its end")

extract.read = read
extract.main()
"""


@linux
def test_confined_child_reaches_no_file_network_or_process(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("4711")
    question = {"kind": "text", "end": "txt", "size": 0, "memory": 1 << 30, "seconds": 60,
             "chunk": 1000, "overlap": 0}  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        started = subprocess.Popen(
            [*command("x")[:2], "-c", HOSTILE, str(tmp_path), str(secret), port],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
        )
        with started as child:
            assert child.stdin is not None and child.stdout is not None
            child.stdin.write(json.dumps(question).encode() + b"\n")
            child.stdin.flush()
            said = [json.loads(line) for line in child.stdout]
    text = "\n".join(line.get("text", "") for line in said)
    assert "at its end" in text
    assert "reached" not in text
    assert secret.read_text() == "4711"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret"]


def test_child_environment_has_no_key_proxy_or_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "SLOTPROXY_API_KEY",
        "HTTPS_PROXY",
        "https_proxy",
        "OPENAI_API_KEY",
        "DB_PASSWORD",
    ):
        monkeypatch.setenv(name, "4711")
    assert "4711" not in environment().values()
    assert environment()["PYTHONSAFEPATH"] == "1"
    whole = environment(whole=True)  # the operator's own code may need it
    assert "SLOTPROXY_API_KEY" not in whole and whole["OPENAI_API_KEY"] == "4711"


def test_child_imports_nothing_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "msgspec.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    for module in ("proxy.websearch.engines", "proxy.knowledge.extract"):
        started = [*command(module)]
        subprocess.run(
            started, input=b"", env=environment(), stderr=subprocess.DEVNULL, check=False
        )
    assert not (tmp_path / "ran").exists()
    assert os.path.samefile(Path.cwd(), tmp_path) and sys.executable == started[0]
