"""The driver for whisper.cpp's server, which has an API of its own: a form to /inference.

It works on one recording at a time, and aborts that when the connection closes.
"""

from __future__ import annotations

from ..core.hearing import tokens_of
from ..core.task import Call, CallMaker
from ..core.usage import Usage
from ..errors import (
    BackendDown,
    BadRequest,
    InvalidParameter,
    Unsupported,
    UpstreamFault,
    UpstreamTimeout,
)
from ..runtime.blocking import run_in_native_thread
from ..runtime.cancel import Cancel
from ..wire import hearing
from .driver import NO_API, Capabilities, OnCapabilities, ignore
from .http import ConnectionPool, ForwardedAnswer
from .http_server import CHECK_TIMEOUT, TRANSCRIPTIONS, TRANSLATIONS, HTTPServer, recording
from .probe import document
from .refusals import check_cost

DIALECT = "whisper.cpp"
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
            dialect=DIALECT, slots=1, queues=True, tokenize=False, audio=True, models=(MODEL,)
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
