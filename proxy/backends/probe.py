"""Finds out what a server.cpp can do by asking it.

Old servers have few routes and report little: /props has two names, /model.json the settings of the
first slot. Since early 2024, /props reports slots, context and template, and a busy server queues
requests. The field names for the slot (slot_id, id_slot) and the end (stopped_eos, stop_type) are
read from a real chunk: a token must come within the deadline, since a hung server still answers
every GET.

The requests are rare, so they use `requests` (see `ProbeSession`) with a connection each: an old
server has eight threads, and an idle keep-alive connection holds one of them.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from ..core.decoding import decoded
from ..core.sampling import LATER
from ..errors import BackendDown, GatewayError, UpstreamFault, UpstreamTimeout
from ..runtime.blocking import NativeThreads, run_in_native_thread
from ..wire import sse
from ..wire.router import as_count, as_dict, room
from .driver import Capabilities, Learned, ignore
from .gguf import with_template
from .http import CheckPeer, ConnectionPool

Answer = dict[str, Any]

PROMPT = "Hi"
KEPT = " ".join(str(n * n) for n in range(2, 26))
GET_TIMEOUT = 5.0  # seconds for a whole answer
ROUTER = "router"  # the dialect of a llama-server that manages several models
_threads = NativeThreads(4)


def probe(
    url: str,
    headers: Mapping[str, str],
    pool: ConnectionPool,
    deadline: float,
    learned: Learned = ignore,
    *,
    model_file: bool = True,
    check_peer: CheckPeer | None = None,
) -> Capabilities:
    """Probe the server at `url`. `headers` are sent with every GET, on connections that
    `check_peer` has seen; the token is requested through `pool`. `learned` is called with the
    outline before that token. A router has no token of its own and is only recognized. With
    `model_file`, the template of a server that reports none is read from its model file. Raises
    BackendDown, UpstreamTimeout, UpstreamFault."""
    health, props, models, first = _questions(url, headers, check_peer)
    if props.get("role") == ROUTER:
        return Capabilities(dialect=ROUTER, slots=room(props), build=_text(props.get("build_info")))
    caps = _outline(health, props, models, first)
    if model_file:
        caps = with_template(caps, url, first, props)
    if props or models:
        learned(caps)
    chunk = first_token(pool, deadline)
    modern = "stop_type" in chunk
    return msgspec.structs.replace(
        caps,
        dialect=_dialect(caps.queues, modern, bool(models)),
        slot_field="id_slot" if "id_slot" in chunk else "slot_id",
        n_ctx=caps.n_ctx or as_count(as_dict(chunk.get("generation_settings")).get("n_ctx")),
        doubles=not caps.queues,
        honours_seed=modern,
        infill=caps.queues and fills_in(pool),
        chat=bool(models) and modern,
        json_schema=modern,
        progress="modalities" in props,
        modern_sampling=modern,
        lacks=frozenset() if modern else LATER,
        slot_save=modern and saves_slots(pool),
        ram_cache=modern and keeps_prompts(pool),
        adds_bos=not caps.bos_token
        or (adds_bos(pool) if modern else old_adds_bos(pool, chunk, caps.adds_bos)),
        models=_models(props, models, first, chunk),
    )


def outline(
    url: str, headers: Mapping[str, str], check_peer: CheckPeer | None = None
) -> Capabilities:
    """What a server reports without generating a token, which suffices for an embedding server.
    `check_peer`: see `probe`. Raises BackendDown."""
    health, props, models, first = _questions(url, headers, check_peer)
    if props.get("role") == ROUTER:
        raise BackendDown("the server is a multi-model router: configure it with --llama-api")
    return _outline(health, props, models, first)


def _outline(health: int, props: Answer, models: Answer, first: Answer) -> Capabilities:
    queues = type(props.get("total_slots")) is int or health == 200
    reported = of_props(props)
    reported["n_ctx"] = reported["n_ctx"] or as_count(first.get("n_ctx"))
    return Capabilities(
        dialect=_dialect(queues, "modalities" in props, bool(models)),
        n_vocab=_n_vocab(models),
        queues=queues,
        truncates="modalities" not in props,
        models=_models(props, models, first),
        build=_text(props.get("build_info")),
        **reported,
    )


def of_props(props: Answer) -> dict[str, Any]:
    """The capabilities that /props reports, by name."""
    settings = as_dict(props.get("default_generation_settings"))
    modalities = as_dict(props.get("modalities"))
    return {
        "slots": as_count(props.get("total_slots")),
        "n_ctx": as_count(settings.get("n_ctx")),
        "vision": modalities.get("vision") is True,
        "audio": modalities.get("audio") is True,
        "template": _text(props.get("chat_template")),
        "bos_token": _text(props.get("bos_token")),
        "eos_token": _text(props.get("eos_token")),
        # Not those of /model.json: an old server shows the last request of its first slot there.
        "settings": as_dict(settings.get("params")),
        "metrics": props.get("endpoint_metrics") is True,
    }


def _questions(
    url: str, headers: Mapping[str, str], check_peer: CheckPeer | None
) -> tuple[int, Answer, Answer, Answer]:
    """The status of /health and the documents at /props, /v1/models and /model.json. Runs in a
    native thread, because it may parse megabytes of JSON."""

    def answers() -> tuple[int, Answer, Answer, Answer]:
        with ProbeSession(headers, check_peer) as session:
            status, props = _get(session, url + "/props")
            if status == 503:
                raise BackendDown("the backend is loading its model")
            health, _ = _get(session, url + "/health")
            _, models = _get(session, url + "/v1/models")
            _, first = _get(session, url + "/model.json")
        return health, props, models, first

    return run_in_native_thread(answers, _threads)


def first_token(pool: ConnectionPool, deadline: float) -> dict[str, Any]:
    """The last chunk of a one-token completion, unchanged; {} if the server is busy.

    Raises UpstreamTimeout if no token came within `deadline` seconds, UpstreamFault,
    BackendDown."""
    until = time.monotonic() + deadline
    body = {"prompt": PROMPT, "n_predict": 1, "stream": True, "temperature": 0}
    tick = min(deadline, 1.0)
    exchange = pool.send("POST", "/completion", body, tick=tick, patience=deadline, short=True)
    decoder = sse.Decoder()
    chunks: list[dict[str, Any]] = []
    status_seen = b""
    try:
        while True:
            data = exchange.read()
            if data is None:
                if time.monotonic() >= until:
                    raise UpstreamTimeout("the backend timed out before the first token")
                continue
            if exchange.status != 200:
                status_seen += data
                if not data:
                    return _busy(exchange.status, status_seen)
                continue
            for name, payload in decoder.feed(data):
                chunk = as_dict(_json(payload))
                if name == "error" or "error" in chunk:
                    return _busy(200, payload)
                chunks.append(chunk)
                if chunk.get("stop") is True:
                    return chunk
            if not data:
                return _busy(200, b"") if not chunks else chunks[-1]
    except sse.SSEError as error:
        raise UpstreamFault("the backend is not a llama.cpp server", detail=str(error)) from None
    finally:
        exchange.close()


def saves_slots(pool: ConnectionPool) -> bool:
    """Whether it was started with --slot-save-path. Otherwise it refuses every slot action."""
    return _ask(pool, "/slots/0?action=none", {})[0] == 400


def fills_in(pool: ConnectionPool) -> bool:
    """Whether the model has infill tokens. Otherwise every infill request is a 501. This request
    is invalid, so a model with infill tokens refuses it differently."""
    return _ask(pool, "/infill", {"input_extra": 0})[0] == 400


def adds_bos(pool: ConnectionPool) -> bool:
    """Whether it puts BOS before a prompt. Some models have a BOS that must not be added: where it
    is the mark that begins a turn, as in SmolLM2's ChatML, the template writes it."""
    status, data = _ask(pool, "/tokenize", {"content": "", "add_special": True})
    return status != 200 or as_dict(_json(data)).get("tokens") != []


def old_adds_bos(pool: ConnectionPool, chunk: Answer, default: bool) -> bool:
    """The same of an old server, which has no add_special: whether the prompt of `chunk` had more
    tokens than its text. `default` if the server was busy."""
    evaluated = as_count(chunk.get("tokens_evaluated"))
    status, data = _ask(pool, "/tokenize", {"content": PROMPT})
    tokens = as_dict(_json(data)).get("tokens") if status == 200 else None
    if not evaluated or not isinstance(tokens, list):
        return default
    return evaluated > len(tokens)


def keeps_prompts(pool: ConnectionPool) -> bool:
    """Whether it keeps old prompts in RAM, which no route reports: two prompts in turn in one slot,
    then the first again. If the slot stays busy, the default is assumed: it does."""
    cached = 0
    for prompt in (KEPT, PROMPT, KEPT):
        body = {"prompt": prompt, "n_predict": 1, "id_slot": 0, "cache_prompt": True}
        status, data = _ask(pool, "/completion", body)
        if status != 200:
            return True
        cached = as_count(as_dict(as_dict(_json(data)).get("timings")).get("cache_n"))
    return cached > len(KEPT.split()) // 2


def _ask(pool: ConnectionPool, path: str, body: object) -> tuple[int, bytes]:
    """The status and body of an answer, (0, b"") if there is none."""
    try:
        return pool.ask("POST", path, body, GET_TIMEOUT, short=True)
    except GatewayError:
        return 0, b""


def _busy(status: int, data: bytes) -> dict[str, Any]:
    busy = b"slot unavailable" in data or (status in (200, 404) and len(data) < 64)
    if status == 503:
        raise BackendDown("the backend is not ready", detail=repr(data[:100]))
    if not busy:
        raise UpstreamFault("the backend returned no token", detail=f"{status} {data[:100]!r}")
    return {}


def _get(session: ProbeSession, url: str) -> tuple[int, Answer]:
    """The status and JSON object of an answer, (0, {}) if there is none in time."""
    status, data = session.get(url, GET_TIMEOUT)
    return status, as_dict(_json(data)) if status == 200 else {}


def _json(data: bytes) -> Any:
    try:
        return decoded(data)
    except ValueError:
        return None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _n_vocab(models: dict[str, Any]) -> int:
    data = models.get("data")
    first = as_dict(data[0]) if isinstance(data, list) and data else {}
    return as_count(as_dict(first.get("meta")).get("n_vocab"))


def _dialect(queues: bool, modern: bool, models: bool) -> str:
    if modern:
        return "llama-server"
    if queues:
        return "2024"
    return "2023" if models else "powerinfer"


def _models(*answers: dict[str, Any]) -> tuple[str, ...]:
    """Names of the model, most specific first: file names without folder and extension."""
    names: list[str] = []
    for answer in answers:
        data = answer.get("data")
        for entry in data if isinstance(data, list) else []:
            names.append(_text(as_dict(entry).get("id")))
        names += [_text(answer.get(k)) for k in ("model_alias", "model_path", "model")]
    clean = [n.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".gguf") for n in names]
    return tuple(dict.fromkeys(n for n in clean if n and n not in ("unknown", "default")))


# -- requests for small documents -----------------------------------------------------------------
#
# `requests` bounds the silence between two reads, but neither the total time nor the size, and
# http.client beneath it accepts any number of interim answers and trailers. So both are bounded at
# the socket, which sees every byte.

MAX_HEAD = 64 << 10  # bytes of an answer's head, with the interim answers before it
MAX_ANSWER = 4 << 20  # bytes of an answer
PIECE = 1 << 16


class ProbeSession:
    """Sends GET requests to one backend, with `headers` in each and a connection for each, which
    `check_peer` sees before anything else is sent (see `http.ConnectionPool`). For one thread."""

    def __init__(self, headers: Mapping[str, str], check_peer: CheckPeer | None = None) -> None:
        self._budget = _Budget()
        self._check_peer = check_peer
        self._session = requests.Session()
        self._session.trust_env = False  # the environment's proxy is for the internet
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter(max_retries=0))
        own = {"Connection": "close", "Accept-Encoding": "identity"}
        self._session.headers.update({**own, **headers})

    def __enter__(self) -> ProbeSession:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def get(self, url: str, seconds: float, body: object = None) -> tuple[int, bytes]:
        """The status and body, (0, b"") if there is no valid answer in time; with a `body`, of a
        POST. The answer is not decompressed, whatever its Content-Encoding. Raises BackendDown."""
        self._budget.start(seconds)
        _asking.budget, _asking.check_peer = self._budget, self._check_peer
        method = "GET" if body is None else "POST"
        try:
            with self._session.request(
                method, url, json=body, timeout=seconds, allow_redirects=False, stream=True
            ) as answer:
                self._budget.left = MAX_ANSWER
                data = bytearray()
                while piece := answer.raw.read(PIECE, decode_content=False):
                    data += piece
                return answer.status_code, bytes(data)
        except requests.ConnectionError as error:
            if self._budget.spent:
                return 0, b""
            raise BackendDown("the backend is not responding", detail=str(error)) from None
        except (requests.RequestException, HTTPError, OSError):
            return 0, b""
        finally:
            # A server may close without having said so, just when the next request is sent.
            self._session.close()


class _Budget:
    """The remaining bytes of one answer, and its deadline `end`."""

    def __init__(self) -> None:
        self.left = 0
        self.end = 0.0
        self.spent = False

    def start(self, seconds: float) -> None:
        self.left, self.end, self.spent = MAX_HEAD, time.monotonic() + seconds, False

    def seconds(self) -> float:
        """The remaining seconds. Raises TimeoutError if bytes or time are used up."""
        left = self.end - time.monotonic()
        if left <= 0 or self.left <= 0:
            self.spent = True
            raise TimeoutError("too slow, or too large")
        return left


class _Socket:
    """A socket for http.client whose reads are counted."""

    def __init__(self, sock: socket.socket, budget: _Budget) -> None:
        self._sock = sock
        self._budget = budget

    def makefile(self, *_: object, **__: object) -> io.BufferedReader:
        counted: Any = self
        # As socket.makefile does: http.client closes the socket before an answer that ends with the
        # connection has been read.
        counted._sock._io_refs += 1
        return io.BufferedReader(socket.SocketIO(counted, "r"))

    def recv_into(self, buffer: memoryview) -> int:
        self._sock.settimeout(self._budget.seconds())
        count = self._sock.recv_into(buffer[: self._budget.left])
        self._budget.left -= count
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


_asking = threading.local()  # `budget` and `check_peer` of the answer that this thread waits for


def _counting(pool: Any) -> Any:
    """A class of connection pools whose connections are checked, and count their bytes."""

    class Counting(pool.ConnectionCls):  # type: ignore[misc]
        sock: Any

        def connect(self) -> None:
            super().connect()
            if _asking.check_peer is not None:
                _asking.check_peer(self.sock)
            self.sock = _Socket(self.sock, _asking.budget)

    return type("CountingPool", (pool,), {"ConnectionCls": Counting})


# Made once: classes are reference cycles, and a backend that is down is probed every few seconds.
_POOLS = {"http": _counting(HTTPConnectionPool), "https": _counting(HTTPSConnectionPool)}


class _Adapter(HTTPAdapter):
    """Creates connections with counting sockets."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS
