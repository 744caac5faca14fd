"""Drivers of HTTP servers: what all of them share, and those for whisper.cpp's server and for a
server of any other API."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from ..core.decoding import LONGEST
from ..core.task import Call, CallForm, CallMaker, Embedded, tokens_of
from ..core.usage import Usage
from ..errors import (
    BackendDown,
    BadRequest,
    GatewayError,
    InvalidParameter,
    PoolTimeout,
    Unsupported,
    UpstreamFault,
    UpstreamTimeout,
)
from ..runtime.blocking import run_in_native_thread
from ..runtime.cancel import Cancel
from ..wire import hearing, lenient
from .driver import NO_API, Capabilities, Driver, Input, OnCapabilities, ignore
from .http import CheckPeer, ConnectionPool, ForwardedAnswer
from .probe import document
from .refusals import check_cost, refusal

DIALECT = "http"
CHECK_TIMEOUT = 5.0
PATIENCE = 1.0  # seconds to wait for a connection before the request goes back into the queue
TOKENIZE_TIMEOUT = 60.0  # seconds for one text
TRANSCRIPTIONS, TRANSLATIONS = "/v1/audio/transcriptions", "/v1/audio/translations"


T = TypeVar("T", bound=Struct)
VECTORS = 4 * LONGEST  # nanoseconds to decode the vectors of one call: 32 of 8192 dimensions


def decoded_as(data: bytes, kind: type[T]) -> T:
    """An answer with vectors or scores. Raises UpstreamFault."""
    check_cost(data, VECTORS)
    try:
        return lenient.decoder(kind)(data)
    except lenient.WireFault:
        raise UpstreamFault("the backend returned an invalid response") from None


def recording(call: Call) -> CallForm | None:
    """The form with a recording; None for a call of another path. Raises Unsupported."""
    if call.path not in (TRANSCRIPTIONS, TRANSLATIONS):
        return None
    if call.form is None:
        raise Unsupported("send the recording as a form (multipart/form-data) with file and model")
    return call.form


def check_vectors(vectors: Sequence[Sequence[float]]) -> None:
    """Raises Unsupported for vectors of zeros."""
    if not all(map(any, vectors)):
        raise Unsupported("the backend returned empty embeddings: start it with its embedding flag")


class Counted(Struct, frozen=True):
    prompt_tokens: int = 0


class Item(Struct):
    embedding: list[float]
    index: int = 0


class Vectors(Struct):
    data: list[Item]
    usage: Counted = Counted()


class HTTPDriver(Driver):
    """A driver for the server at `url`. `new_pool` makes pools of the class `connect`."""

    _pool: ConnectionPool  # for requests of clients
    _careful: ConnectionPool  # for small requests of ours, such as for tokens
    _root: ConnectionPool  # for health checks; its paths begin at the server's root
    _model = ""  # what the server calls its model, "" if it takes the name that clients send

    def __init__(
        self,
        url: str,
        *,
        connect: Callable[..., ConnectionPool] = ConnectionPool,
        timeout: float = 600.0,
        connect_timeout: float = 5.0,
        tick: float = 15.0,
        api_key: str = "",
        check_peer: CheckPeer | None = None,
    ) -> None:
        self.url = url
        self.timeout = timeout
        self._tick = min(tick or timeout, timeout)
        self._secret = api_key
        self.new_pool: Callable[..., Any] = partial(
            connect,
            url=url,
            timeout=timeout,
            connect_timeout=connect_timeout,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            check_peer=check_peer,
        )

    def status_of(self, path: str, seconds: float, pool: ConnectionPool | None = None) -> int:
        """The status of a GET, by default below the root; 0 if the server does not respond."""
        try:
            return (pool or self._root).ask("GET", path, timeout=seconds, short=True)[0]
        except PoolTimeout:
            return 200  # every connection is in use, so the traffic shows its health
        except (UpstreamFault, UpstreamTimeout):
            return 0

    def forward(self, make: CallMaker, cancel: Cancel) -> ForwardedAnswer:
        return self._forwarded(make(self._model), cancel)

    def _forwarded(self, call: Call, cancel: Cancel) -> ForwardedAnswer:
        options = {"tick": self._tick, "timeout": self.timeout}
        return ForwardedAnswer(self._pool, call, call.path, cancel, **options)

    def embed(self, inputs: Sequence[Input], caps: Capabilities, cancel: Cancel) -> Embedded:
        """Raises Unsupported, and the server's refusal."""
        answer = decoded_as(self._ask("/v1/embeddings", {"input": list(inputs)}, cancel), Vectors)
        answer.data.sort(key=lambda item: item.index)
        if [item.index for item in answer.data] != list(range(len(inputs))):
            raise UpstreamFault("the backend did not return one embedding per input")
        vectors = tuple(item.embedding for item in answer.data)
        check_vectors(vectors)
        return Embedded(vectors, answer.usage.prompt_tokens)

    def close(self) -> None:
        for pool in (self._pool, self._careful, self._root):
            pool.close()

    def _ask(self, path: str, body: object, cancel: Cancel) -> bytes:
        """The answer to a request that takes a slot."""
        return self._post(self._careful, path, body, cancel=cancel)

    def _post(self, pool: ConnectionPool, path: str, body: object, **options: Any) -> bytes:
        """The answer to a request; `options` as of `ConnectionPool.ask`. Raises its refusal."""
        status, data = pool.ask("POST", path, body, **options)
        if status != 200:
            raise self._refusal(status, data)
        return data

    def _refusal(self, status: int, data: bytes) -> GatewayError:
        return refusal(status, data, secret=self._secret)

    def _value(self, path: str, body: object, name: str, cancel: Cancel | None = None) -> Any:
        """A field of the JSON object that answers a request. Raises UpstreamFault without one."""
        data = self._post(
            self._careful,
            path,
            body,
            timeout=min(self.timeout, TOKENIZE_TIMEOUT),
            cancel=cancel,
            patience=PATIENCE,
            short=True,
        )
        check_cost(data)
        try:
            with contextlib.suppress(ValueError, RecursionError):
                return msgspec.json.decode(data).get(name)
            return lenient.value(data).get(name)
        except (lenient.WireFault, AttributeError):
            raise UpstreamFault("the backend returned invalid JSON") from None

    def _text(
        self, path: str, body: object, name: str, cancel: Cancel | None = None, what: str = "text"
    ) -> str:
        text = self._value(path, body, name, cancel)
        if isinstance(text, str):
            return text
        raise UpstreamFault(f"the backend returned an invalid {what}")

    def _ids(self, path: str, body: object, cancel: Cancel | None = None) -> list[int]:
        tokens = self._value(path, body, "tokens", cancel)
        if isinstance(tokens, list) and all(type(token) is int for token in tokens):
            return tokens
        raise UpstreamFault("the backend returned invalid tokens")


class HTTPServer(HTTPDriver):
    """A server of any other HTTP API: whisper-server, stable-diffusion.cpp, rerankers … Its
    requests are forwarded, so nothing is known of it but whether it answers."""

    no_text = "this model's server has no text API: its requests are only forwarded"
    forwards = "/v1/audio, /v1/images or /upstream"

    def __init__(self, url: str, *, model: str = "", **options: Any) -> None:
        super().__init__(url, **options)
        self._model = model
        self._pool = self._careful = self._root = self.new_pool()

    def probe(self, deadline: float, on_capabilities: OnCapabilities = ignore) -> Capabilities:
        if not self.status_of("/", min(deadline, CHECK_TIMEOUT)):
            raise BackendDown("the backend is not responding")
        return Capabilities(dialect=DIALECT, queues=True, tokenize=False)

    def alive(self) -> bool:
        """Always: many of these servers answer nothing while they work. The process is watched by
        its host, and a server that hangs fails its requests."""
        return True


# -- whisper.cpp's server, which has an API of its own: a form to /inference -----------------------
#
# It works on one recording at a time, and aborts that when the connection closes.

WHISPER = "whisper.cpp"
MODEL = "whisper-1"  # OpenAI's name, as the server does not say which model it has
TITLE = b"Whisper.cpp Server"
UNCONVERTED = b"FFmpeg conversion failed"  # with a 500
UNREADABLE = (
    "the server could not read the file: send WAV, MP3, FLAC or OGG, or start whisper-server with"
    " --convert, which needs ffmpeg"
)


def is_whisper(pool: ConnectionPool) -> bool:
    """Whether the first page of a server is that of whisper.cpp's."""
    try:
        status, page = pool.ask("GET", "/", timeout=CHECK_TIMEOUT, short=True, most=1 << 20)
    except (UpstreamFault, UpstreamTimeout):
        return False
    return status == 200 and TITLE in page


class WhisperServer(HTTPServer):
    """Its requests are forwarded like those of other APIs, in another form."""

    no_text = "this model only writes down what recordings say"
    forwards = TRANSCRIPTIONS

    def probe(self, deadline: float, on_capabilities: OnCapabilities = ignore) -> Capabilities:
        status, _ = document(self._pool, "/health", seconds=min(deadline, CHECK_TIMEOUT))
        if status in (0, 503):
            raise BackendDown(
                "the backend is loading its model" if status else "the backend is not responding"
            )
        return Capabilities(
            dialect=WHISPER, slots=1, queues=True, tokenize=False, audio=True, models=(MODEL,)
        )

    def alive(self) -> bool:
        return self.status_of("/health", CHECK_TIMEOUT) not in (0, 503)

    def forward(self, make: CallMaker, cancel: Cancel) -> ForwardedAnswer:
        call = make("")
        form = recording(call)
        if form is None and call.path.startswith("/v1/"):
            raise Unsupported(NO_API, param="model")
        if form is None:  # /upstream
            return self._forwarded(call, cancel)
        request = form.hearing()
        if hearing.language_of(request) not in hearing.LANGUAGES:
            raise InvalidParameter("language", "must be a code that Whisper knows, such as en")
        sent = hearing.whisper_fields(request, translate=call.path == TRANSLATIONS)
        call = Call("POST", hearing.PATH, call.headers, form.written(sent))
        answer = self._forwarded(call, cancel)
        data = answer.read_all()
        if answer.status == 400 or (answer.status == 500 and UNCONVERTED in data):
            raise BadRequest(UNREADABLE, param="file")
        if answer.status != 200:
            raise self._refusal(answer.status, data)
        check_cost(data)

        def write() -> None:
            heard = hearing.heard(data)
            answer.rewrite(*hearing.reply(heard, request), Usage(tokens_of(heard.duration)))

        try:
            run_in_native_thread(write)
        except ValueError:  # WireFault
            raise UpstreamFault("the backend returned an invalid response") from None
        return answer
