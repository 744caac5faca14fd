"""Guards and settings for every test."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from werkzeug.routing import Rule

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
def data_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What an app or a gateway keeps where none is named goes into a folder of this session (of
    this worker, where there are several), and never among what this user keeps."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_DATA_HOME", "LOCALAPPDATA"):
            patch.setenv(name, str(tmp_path_factory.mktemp("kept")))
        yield


@pytest.fixture(autouse=True, scope="session")
def routes_compiled_once() -> Iterator[None]:
    """Werkzeug compiles two functions of Python for every route of every app: two thirds of what
    making an app costs, and these tests make a thousand. They are the same for the same rule."""
    compiled = Rule._compile_builder
    known: dict[Any, Any] = {}

    def remembered(self: Rule, append_unknown: bool = True) -> Any:
        key = (self.rule, tuple(self._trace), repr(self.defaults), append_unknown)
        if key not in known:
            known[key] = compiled(self, append_unknown)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rule, "_compile_builder", remembered)
        yield


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
    """For `-n auto`: two a core, since a good part of the tests wait for servers."""
    return 2 * (os.cpu_count() or 1)


def pytest_collection_finish() -> None:
    """The tests are a million objects that stay; the collector need not look at them again and
    again, which was a tenth of all the tests' time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order in which files go to the workers: those that wait first, what only computes beside
    and after them. Tests in a browser come last: Playwright leaves an event loop running in its
    thread, and asyncio.run() refuses to begin another."""
    turns = {"integration": 0, "browser": 2}
    items.sort(key=lambda item: turns.get(item.path.parent.name, 1))
