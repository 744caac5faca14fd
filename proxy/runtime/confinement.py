"""Starts helper processes (``python -P -m proxy.…``) and confines them.

`confine` is called in the helper itself, before it parses untrusted data. It uses Landlock
(landlock(7); Linux 5.13), which also binds native code: only files that Python needs can be read,
none can be written, no program can be started, no other process inspected. Later kernels add TCP
(6.7) and signals (6.12); UDP is not covered. Without Landlock, only `limit` and the parent's
timeout apply.
"""

from __future__ import annotations

import ctypes
import mimetypes
import os
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
HOME = PACKAGE.parent  # the folder of the package
MEMORY = 1 << 30  # bytes of address space of a helper that reads web pages

KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT",
        "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR")  # fmt: skip


def command(module: str) -> list[str]:
    return [sys.executable, "-P", "-m", module]


def environment(*, whole: bool = False) -> dict[str, str]:
    """A helper's environment: only the variables in `KEPT`. `whole`: everything but our settings,
    for code that the operator has installed and may configure there."""
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
        # Otherwise each thread's malloc arena reserves 128 MB of the address space limit.
        "MALLOC_ARENA_MAX": own.get("MALLOC_ARENA_MAX", "2"),
    }


def limit(memory: int, seconds: int = 0) -> None:
    """Limit this process: bytes of address space, seconds of CPU time (0: no limit), and files of
    at most 64 MiB. Windows has no such limits."""
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
_ACCESSES = {1: 13, 2: 14, 3: 15, 4: 15}  # version to known bits of file access; 5 and up: 16
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
    """The kernel's version of Landlock; 0 for none."""
    if not sys.platform.startswith("linux"):
        return 0
    version: int = _libc().syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    return max(0, version)


def confine(*, network: bool, ports: Iterable[int] = ()) -> int:
    """Let this thread, and threads it starts, only read Python's own files, write none, start no
    program and see no other process. Call it before there is a second thread. `network`: it may
    connect to other hosts, if `ports` are given only with TCP to these. Returns the version of
    Landlock in use, 0 for none."""
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
    """Allow access to everything beneath `path`, if it exists."""
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
    """The files of Python itself; with `network` also those for resolving and verifying hosts. Of a
    sys.path folder that contains this package, only the package."""
    yield PACKAGE
    for entry in {*filter(None, sys.path), sys.prefix, sys.base_prefix}:
        path = Path(entry).resolve()
        installed = path == HOME and path.name in ("site-packages", "dist-packages")
        if installed or path not in (HOME, *HOME.parents):
            yield path
    yield from map(Path, (*_SYSTEM, *mimetypes.knownfiles))
    if network:
        import ssl  # slow to import, and only needed here

        yield from map(Path, _NETWORK)
        yield from map(Path, filter(None, ssl.get_default_verify_paths()[:2]))


# Bounds the memory that glibc's malloc keeps after it was freed.
#
# Arenas: each native thread gets one of its own, up to eight for each core. Memory that is freed
# in one stays there for the threads that share it, so a process with many threads keeps the most
# that each of them ever needed.
#
# Large blocks: a rare upload of megabytes raises the size from which a block is mapped by itself,
# up to 32 MB. Later large blocks come from the heap then, between small ones that stay, so the
# heap keeps the most that all large bodies at once ever needed. A fixed size prevents that.

ARENAS = 2
MAPPED = 1 << 20  # bytes from which a block is mapped by itself: more than a prompt as a rule
TOP = 4 << 20  # free bytes at the end of the heap from which they are returned
PAD = 1 << 20  # bytes by which the heap grows at least

# The numbers of <malloc.h>, and the variables of the environment that come first.
_OPTIONS = (
    (-8, ARENAS, "MALLOC_ARENA_MAX"),
    (-3, MAPPED, "MALLOC_MMAP_THRESHOLD_"),
    (-1, TOP, "MALLOC_TRIM_THRESHOLD_"),
    (-2, PAD, "MALLOC_TOP_PAD_"),
)


def bound_malloc() -> bool:
    """Set these bounds for this process, but for those that the environment sets. Returns whether
    any was set: not without glibc. Call it before threads start."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    options = [option for option in _OPTIONS if option[2] not in os.environ]
    return any([bool(mallopt(number, value)) for number, value, _ in options])


def trim_malloc() -> None:
    """Return what is free between used blocks, which no bound does: a millisecond or two."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(PAD)
