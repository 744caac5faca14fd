"""How helper processes start, and what they may reach.

A helper is a Python process of this package: ``python -P -m proxy.…``. ``-P`` keeps the working
directory out of its imports. `environment` leaves it no key, no proxy and no setting of ours.

`confine` is called in the helper itself, before it parses anything from a stranger. It uses
Landlock (landlock(7); Linux 5.13), which binds native code too: no file but those Python needs can
be read, none can be written, no program started, no other process inspected. Later kernels add TCP
(6.7) and signals (6.12); UDP is not covered. Without Landlock, and on other systems, `limit` and
the parent's time limit are what holds.
"""

from __future__ import annotations

import ctypes
import mimetypes
import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent  # where the package lies
MEMORY = 1 << 30  # bytes of address space of a helper that reads web pages

KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT",
        "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR")  # fmt: skip


def command(module: str) -> list[str]:
    """What starts a helper."""
    return [sys.executable, "-P", "-m", module]


def environment(*, whole: bool = False) -> dict[str, str]:
    """A helper's environment: `KEPT` alone. `whole`: everything but our settings, for code that the
    operator has installed and that may be configured there."""
    own = {
        name: value
        for name, value in os.environ.items()
        if (whole and not name.startswith("SLOTPROXY_")) or name in KEPT
    }
    paths = [str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **own,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONSAFEPATH": "1",
        # A thread's own arena of malloc reserves 128 MB of what `limit` allows.
        "MALLOC_ARENA_MAX": own.get("MALLOC_ARENA_MAX", "2"),
    }


def limit(memory: int, seconds: int = 0) -> None:
    """Bound this process: bytes of address space, seconds of processor time (0: no bound), and no
    file larger than 64 MiB. Windows has no such limits."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    if seconds:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))  # SIGXCPU, then SIGKILL
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, 64 << 20))


# Landlock. Numbers and structures: linux/landlock.h; system calls have the same numbers everywhere.
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_ACCESSES = {1: 13, 2: 14, 3: 15, 4: 15}  # version to bits of file access it knows; 5 and up: 16
_BIND, _CONNECT = 1 << 0, 1 << 1  # of TCP; from version 4
_SCOPES = 1 << 0 | 1 << 1  # abstract sockets, signals; from version 6
_NO_NEW_PRIVS = 38  # prctl
_PATH, _PORT = 1, 2  # kinds of rules

_SYSTEM = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/usr/share/zoneinfo",
           "/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/urandom", "/proc/cpuinfo",
           "/sys/devices/system/cpu")  # fmt: skip
_NETWORK = ("/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/host.conf",
            "/etc/gai.conf", "/etc/services", "/etc/ssl", "/etc/pki", "/etc/ca-certificates",
            "/usr/share/ca-certificates", "/usr/local/share/ca-certificates")  # fmt: skip


def landlock() -> int:
    """The version of Landlock that the kernel has; 0 for none."""
    if not sys.platform.startswith("linux"):
        return 0
    version: int = _libc().syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    return max(0, version)


def confine(*, network: bool, ports: Iterable[int] = ()) -> int:
    """Let this thread, and those it starts, read Python's own files alone, write none, start no
    program and see no other process. Call it before there is a second thread. `network`: it may
    connect to others, with TCP at these `ports` alone if there are any. Files that are open stay
    open.

    Gives the version of Landlock that was used; 0: there is none here, and nothing has changed."""
    version = landlock()
    if not version:
        return 0
    files = (1 << _ACCESSES.get(version, 16)) - 1
    ports = tuple(ports)
    tcp = 0 if version < 4 else _BIND if network and not ports else _BIND | _CONNECT
    fields = struct.pack("=QQQ", files, tcp, _SCOPES if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    libc = _libc()
    ruleset = libc.syscall(_CREATE, fields, ctypes.c_size_t(size), ctypes.c_uint32(0))
    if ruleset < 0:
        return 0
    try:
        for path in _readable(network):
            _allow(libc, ruleset, path, _READ_FILE | _READ_DIR)
        _allow(libc, ruleset, HOME, _READ_DIR)  # imports list it; HOME may be a checkout
        for port in ports if version >= 4 else ():
            rule = struct.pack("=QQ", _CONNECT, port)
            libc.syscall(_ADD, ruleset, _PORT, rule, ctypes.c_uint32(0))
        if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(
            _RESTRICT, ruleset, ctypes.c_uint32(0)
        ):
            return 0
    finally:
        os.close(ruleset)
    return version


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, access: int) -> None:
    """Everything beneath `path`; nothing where there is no such path."""
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)  # type: ignore[attr-defined,unused-ignore]
    except OSError:
        return
    try:
        rule = struct.pack("=Qi", access if path.is_dir() else access & _READ_FILE, place)
        libc.syscall(_ADD, ruleset, _PATH, rule, ctypes.c_uint32(0))
    finally:
        os.close(place)


def _readable(network: bool) -> Iterable[Path]:
    """Python's own files; with `network` also what finds and verifies others. A folder of sys.path
    that holds this package is given as far as the package goes."""
    yield HOME / __package__
    for entry in {*filter(None, sys.path), sys.prefix, sys.base_prefix}:
        path = Path(entry).resolve()
        installed = path == HOME and path.name in ("site-packages", "dist-packages")
        if installed or path not in (HOME, *HOME.parents):
            yield path
    yield from map(Path, (*_SYSTEM, *mimetypes.knownfiles))
    if network:
        import ssl  # dear, and for nobody else

        yield from map(Path, _NETWORK)
        yield from map(Path, filter(None, ssl.get_default_verify_paths()[:2]))
