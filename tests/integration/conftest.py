"""Real model servers and a real gateway, each a process on a loopback port.

Servers end with their module: an old one starts in a tenth of a second. A test that kills one
starts it again (``server.start()``: the port stays). Gateways end with their test.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import redis_servers, thorough
from tests.integration.generations import GENERATIONS as GENERATIONS
from tests.integration.generations import OLD, SERVER_FIXTURES
from tests.redis_servers import RedisServer
from tools import llama_cpp_python, servers, smollm2
from tools import made_up_model as made_up
from tools.processes import Child, Gateway, LlamaCppPythonServer, ModelServer

from .slow_model import SlowModel

_serial = itertools.count(1)
# The local embedding model would be in every list of models, and start with the first document.
QUIET = {"SLOTPROXY_LOCAL_EMBEDDINGS": "false"}
# The slowest tests, by measure: `make test-all` runs them, `make test` does not.
LONG = """
    batches cancelling capabilities chatchat comeback dialects_clients faults floods forwarded_cut
    forwarding hosted_models hosting_page http1_served key_ends mcp_responses mcp_server
    model_clients model_file prewarm serve sign_in state stopping tokens
""".split()


def pytest_itemcollected(item: pytest.Item) -> None:
    """The gateway is another process here. A socket that is open when its client is collected is
    the test's own, of a connection that a killed server has cut, and no fault."""
    if item.path.stem.removeprefix("test_") in LONG:
        item.add_marker(pytest.mark.slow)
    item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))


def _end(children: Sequence[Child]) -> None:
    for child in reversed(children):
        child.kill()


@pytest.fixture(autouse=True)
def clients_are_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every client a test opens ends with it, the official ones too, which are httpx below: left to
    the garbage collector, it is a socket not closed in whichever test runs then."""
    opened: list[httpx.Client] = []
    begin = httpx.Client.__init__

    def remembered(self: httpx.Client, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        opened.append(self)

    monkeypatch.setattr(httpx.Client, "__init__", remembered)
    yield
    for client in opened:
        client.close()


@pytest.fixture(scope="session")
def made_up_model() -> Path:
    """A model of random weights, which babbles and never ends by itself."""
    return made_up.cached()


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """The bundled model, which answers sensibly and ends its answers."""
    path = servers.ROOT / "models" / "tinychat-llama.gguf"
    if not path.is_file():
        pytest.skip("models/tinychat-llama.gguf is not there")
    return path


@pytest.fixture(scope="session")
def smollm2_model() -> Path:
    """SmolLM2-135M-Instruct: a real model, which knows facts and follows simple instructions."""
    path = smollm2.find()
    if path is None:
        reason = "SmolLM2 is not in the cache: python -m tools.smollm2 fetch"
        if thorough.ALL:
            pytest.fail(reason)
        pytest.skip(reason)
    return path


StartServer = Callable[..., ModelServer]


@pytest.fixture(scope="module")
def start_server(
    made_up_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartServer]:
    """Factory: ``start_server(name, slots=2, ctx=4096, model=…, extra=[…])``, name one of
    GENERATIONS. `make test` runs that of 2023 alone. Skips when the server is not there, which is
    an error in `make test-all` for those that are built."""
    started: list[ModelServer] = []

    def start(
        name: str,
        slots: int = 2,
        ctx: int = 4096,
        model: Path | None = None,
        extra: Sequence[str] = (),
    ) -> ModelServer:
        if thorough.FEW and name != "llama-2023":
            pytest.skip("make test-all runs it")
        binary = servers.find(name)
        if binary is None:
            reason = servers.absent(name)
            if thorough.ALL and name not in servers.GIVEN:
                pytest.fail(reason)
            pytest.skip(reason)
        log = tmp_path_factory.mktemp("server") / f"{name}-{next(_serial)}.log"
        model = model or made_up_model
        server = ModelServer(name, binary, model, log, slots=slots, ctx=ctx, extra=extra)
        started.append(server)
        server.start()
        return server

    try:
        yield start
    finally:
        _end(started)


@pytest.fixture(scope="module")
def start_llama_cpp_python(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., LlamaCppPythonServer]]:
    """Factory: ``start_llama_cpp_python(model, ctx=4096)``. Only `make test-all` runs it."""
    started: list[LlamaCppPythonServer] = []

    def start(model: Path, ctx: int = 4096) -> LlamaCppPythonServer:
        if thorough.FEW:
            pytest.skip("make test-all runs it")
        python = llama_cpp_python.find()
        if python is None:
            pytest.fail("not built: python -m tools.llama_cpp_python build")
        log = tmp_path_factory.mktemp("server") / f"llama-cpp-python-{next(_serial)}.log"
        server = LlamaCppPythonServer(python, model, log, ctx)
        started.append(server)
        server.start()
        return server

    try:
        yield start
    finally:
        _end(started)


def _kept_alive(server: ModelServer) -> Iterator[ModelServer]:
    """The running server for one test, restarted if the previous test stopped it."""
    if not server.alive:
        server.start()
    yield server


@pytest.fixture(scope="module")
def _old_server(start_server: StartServer) -> ModelServer:
    return start_server("llama-2023")


@pytest.fixture(scope="module")
def _new_server(start_server: StartServer) -> ModelServer:
    return start_server("llama-2026")


@pytest.fixture(scope="module")
def _powerinfer_server(start_server: StartServer) -> ModelServer:
    return start_server("powerinfer")


@pytest.fixture
def old_server(_old_server: ModelServer) -> Iterator[ModelServer]:
    """The server of November 2023: two slots of 2048 tokens, the made-up model."""
    yield from _kept_alive(_old_server)


@pytest.fixture
def new_server(_new_server: ModelServer) -> Iterator[ModelServer]:
    """llama-server of 2026: two slots of 2048 tokens, the made-up model."""
    yield from _kept_alive(_new_server)


@pytest.fixture
def powerinfer_server(_powerinfer_server: ModelServer) -> Iterator[ModelServer]:
    """PowerInfer's server: two slots of 2048 tokens, the made-up model."""
    yield from _kept_alive(_powerinfer_server)


@pytest.fixture(params=OLD)
def any_old_server(request: pytest.FixtureRequest) -> Iterator[ModelServer]:
    """The test runs once on each server that does not report its slots."""
    yield from _kept_alive(request.getfixturevalue(SERVER_FIXTURES[request.param]))


@pytest.fixture(params=GENERATIONS)
def any_server(request: pytest.FixtureRequest) -> Iterator[ModelServer]:
    """The test runs once on each kind of server."""
    yield from _kept_alive(request.getfixturevalue(SERVER_FIXTURES[request.param]))


@pytest.fixture(params=redis_servers.installed() or [""])
def redis_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    """The test runs once on each that is installed: Redis, Valkey."""
    server = RedisServer(request.param or redis_servers.first(), tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a backend whose answers take minutes."""
    server = SlowModel(tmp_path_factory.mktemp("slow"), 16)
    server.launch()
    try:
        yield server.url
    finally:
        server.kill()


StartGateway = Callable[..., Gateway]


def _gateway(
    log: Path,
    *flags: str,
    env: Mapping[str, str] | None = None,
    fixed: Mapping[str, object] | None = None,
) -> Gateway:
    variables = {**QUIET, **(env or {}), "FIXED": json.dumps(fixed)}
    module = "tests.with_fixed" if fixed else "proxy"
    return Gateway(flags, log, env=variables, python=("-W", "error"), module=module)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[StartGateway]:
    """Factory: ``gateway("--llama-api", url, …)`` starts ``python -m proxy`` with these flags on a
    free port and waits for /readyz (``ready=0``: does not wait). ``fixed`` replaces values of
    ``proxy.config.fixed``. The gateway has ``url``, ``pid``,
    ``log``, ``stop()``, ``kill()``; a warning in it is an error."""
    started: list[Gateway] = []

    def start(*flags: str, ready: float = 60.0, **how: Any) -> Gateway:
        running = _gateway(tmp_path / f"gateway-{len(started) + 1}.log", *flags, **how)
        started.append(running)
        running.start(ready=ready)
        return running

    try:
        yield start
    finally:
        _end(started)


@pytest.fixture
def serve(gateway: StartGateway, tmp_path: Path) -> StartGateway:
    """Factory: ``serve(text, *flags)`` starts a gateway with this settings file."""

    def serving(text: str, *flags: str, **how: Any) -> Gateway:
        file = tmp_path / "slotproxy.toml"
        file.write_text(text)
        return gateway("--config", str(file), *flags, **how)

    return serving


@pytest.fixture(scope="module")
def module_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartGateway]:
    """As ``gateway``, for gateways that all tests of a module share: equal flags are answered with
    the gateway that runs, as other tests have left it."""
    started: dict[tuple[str, ...], Gateway] = {}

    def start(*flags: str, ready: float = 60.0, **how: Any) -> Gateway:
        key = (*flags, str(how))
        if key not in started:
            log = tmp_path_factory.mktemp("gateway") / "gateway.log"
            started[key] = _gateway(log, *flags, **how)
        if not started[key].alive:
            started[key].start(ready=ready)
        return started[key]

    try:
        yield start
    finally:
        _end([*started.values()])
