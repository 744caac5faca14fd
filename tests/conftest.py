"""Guards and settings for every test."""

from __future__ import annotations

import atexit
import gc
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, settings

from proxy.runtime.life import Life
from tests.postgres import empty, running
from tests.thorough import FEW, share

# Threads of a library in this process wait for each other by spinning: as many as there are cores,
# beside model servers and other tests, they take minutes for what one does in a second.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples on every run and every machine: a failure is a finding, not the weather. No
# deadline: a test machine shares its cores with the model servers.
settings.register_profile(
    "slotproxy",
    max_examples=share(100),
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("slotproxy")

LONGEST = "test_every_page"  # of the files with tests in a browser
_LOOPBACK = ("127.", "::1", "localhost")


@pytest.fixture(autouse=True, scope="session")
def only_loopback() -> Iterator[None]:
    """No test speaks to the world: a connection or a name look-up that would is an error."""

    def guard(address: Any) -> None:
        if isinstance(address, tuple) and not str(address[0]).startswith(_LOOPBACK):
            raise AssertionError(f"a test tried to reach {address[0]}")

    connect, connect_ex, getaddrinfo = (
        socket.socket.connect,
        socket.socket.connect_ex,
        socket.getaddrinfo,
    )

    def guarded_connect(self: socket.socket, address: Any) -> None:
        guard(address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        guard(address)
        return connect_ex(self, address)

    def guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name:  # None and "" are for listening
            guard((name,))
        return getaddrinfo(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
        patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
        yield


@pytest.fixture(autouse=True, scope="session")
def httpx_waits_longer() -> Iterator[None]:
    """Clients that set no timeout wait for a minute instead of five seconds: a busy machine answers
    late."""
    begin, usual = httpx.Client.__init__, httpx.Timeout(5.0)

    def patient(self: httpx.Client, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("timeout", usual) == usual:
            kwargs["timeout"] = 60.0
        begin(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx.Client, "__init__", patient)
        yield


@pytest.fixture(autouse=True, scope="session")
def data_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Data of an app or a gateway without a named place goes into a folder of this session (of
    this worker, where there are several), and never among this user's data."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_DATA_HOME", "LOCALAPPDATA"):
            patch.setenv(name, str(tmp_path_factory.mktemp("kept")))
        yield


@pytest.fixture(autouse=True, scope="session")
def closers() -> Iterator[list[Callable[[], object]]]:
    """The closing functions for the exit of the process. A worker makes a thousand apps, whose
    threads would look after their backends and read their databases until its last test."""
    callbacks: list[Callable[[], object]] = []
    register = atexit.register

    def recorded(close: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
        owner = type(getattr(close, "__self__", None))
        if owner.__module__.partition(".")[0] not in ("proxy", "tests"):
            return register(close, *args, **kwargs)
        callbacks.append(close)
        return close

    begin = Life.__init__

    def born(self: Life) -> None:
        begin(self)
        callbacks.append(self.close)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atexit, "register", recorded)
        patch.setattr(Life, "__init__", born)
        # A stream that a test client has read and not closed counts as under way.
        patch.setattr("proxy.runtime.life.ENDING", 0.1)
        yield callbacks
    _close(callbacks, 0)


@pytest.fixture(autouse=True, scope="module")
def leaves_nothing_open() -> Iterator[None]:
    """A file or socket that a module's tests left open in a reference cycle is found here, as an
    error of this module: otherwise the collector finds it during a test that has no fault. What is
    there after that is not looked at again."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def closes_apps_of_the_module(
    leaves_nothing_open: None, closers: list[Callable[[], object]]
) -> Iterator[None]:
    """Apps that fixtures of the whole module make are closed after its last test."""
    before = len(closers)
    yield
    _close(closers, before)


@pytest.fixture(autouse=True)
def closes_apps(
    closes_apps_of_the_module: None, closers: list[Callable[[], object]]
) -> Iterator[None]:
    """Apps that a test makes are closed when it is over."""
    before = len(closers)
    yield
    _close(closers, before)


def _close(closers: list[Callable[[], object]], before: int) -> None:
    """As at the exit of a process: the last first."""
    while len(closers) > before:
        closers.pop()()


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a PostgreSQL of the tests' own. Skips without the wheel that brings one, and
    in `make test`."""
    if FEW:
        pytest.skip("make test-all runs it")
    with running(tmp_path_factory) as address:
        yield address


@pytest.fixture(scope="module")
def postgres(postgres_server: str) -> str:
    """The address of a database on it that is empty, and the module's own."""
    return empty(postgres_server)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`: two a core, since a test of real servers waits for them."""
    return 2 * (os.cpu_count() or 1)


def pytest_collection_finish() -> None:
    """The tests are a million objects that stay; the collector need not look at them again and
    again, which was a tenth of all the tests' time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order in which files go to the workers. Integration tests wait most of their time, the
    others compute: both are dealt out side by side, so that the cores always have work. The last
    files only compute, as a long wait at the end would keep one worker alone. Tests in a browser
    come after all: Playwright leaves an event loop running in its thread, and asyncio.run() refuses
    to begin another. The longest of them is the first, as one worker has all of it."""
    files: dict[str, list[Path]] = {"integration": [], "browser": [], "": []}
    for path in sorted({item.path: 0 for item in items}, key=lambda path: path.stem != LONGEST):
        files.get(path.parent.name, files[""]).append(path)
    shares = {"integration": (0.0, 0.8), "browser": (1.0, 1.0), "": (0.0, 1.0)}
    places = {
        path: begin + length * number / len(group)
        for kind, group in files.items()
        for number, path in enumerate(group)
        for begin, length in [shares[kind]]
    }
    items.sort(key=lambda item: places[item.path])
