"""Requests that a model's server gets as they are: audio, images, and all under /upstream.

The server sees neither keys nor cookies, and can set none. An answer may be a page, which would
have the rights of this site in a browser; so it is marked as one without rights.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import IO, Any, cast, get_args
from urllib.parse import quote, urlencode

import msgspec
from flask import Response, request

from ...accounts.limiting.budgets import Used
from ...core.task import TAIL, Call, CallBody, CallMaker, Format, Forwarded, Hearing, usage_heard
from ...errors import (
    BadRequest,
    Cancelled,
    Forbidden,
    GatewayError,
    InvalidParameter,
    ModelNotFound,
    Unsupported,
)
from ...runtime.cancel import Cancel
from ...server.http1 import BrokenAnswer
from ...web import disconnect, permissions
from ...web.admitted import Admitted
from ...web.body import PIECE, Environ, read_json, spooled
from ...web.form import MultipartForm, read_form
from ...web.model_tables import with_preset
from ...web.observability import Record, new_id
from ...web.permissions import check_model
from ...web.routes import ANY, Api
from ...web.services import Services
from ...web.spine import View, json_route
from ...web.stream import SlotBody
from .. import schema_fields as doc
from ..fields import choice, model_name

blueprint = Api(
    "forwarding",
    __name__,
    group="media",
    tag="OpenAI: images and audio",
    schemas={
        "ForwardedRequest": doc.body(
            "model",
            model=doc.text("The model; the other fields are those of its server.", "whisper"),
        )
    },
)

# By OpenAI's API, the web UI of stable diffusion, and llama-swap: those with a body, by their name
# in the ledger.
POSTED = {
    "audio": ("/v1/audio/speech", "/v1/audio/transcriptions", "/v1/audio/translations"),
    "images": (
        "/v1/images/edits",
        "/v1/images/generations",
        "/v1/images/variations",
        "/sdapi/v1/img2img",
        "/sdapi/v1/txt2img",
    ),
}
HEARD = POSTED["audio"][1:]
UPSTREAM = "/upstream/<path:rest>"
LISTED = ("/v1/audio/voices", "/sdapi/v1/loras")
MAX_QUERY = 4096  # characters
SAFE = "/:@!$&'()*+,;=~"  # besides letters, digits and _.-
REMEDY = (
    "name a model whose server makes images or sound, or hears, of the kind whisper, http"
    " (stable-diffusion.cpp …) or openai: see Audio, images and other servers"
    " in docs/models.md"
)
NO_RIGHTS = {"content-security-policy": "sandbox"}


def _route(method: str, ledger: str, paths: Sequence[str], **about: Any) -> Callable[[View], View]:
    """The paths, also without /v1."""
    both = dict.fromkeys(each for path in paths for each in (path, path.removeprefix("/v1")))
    name = f"{method}_{ledger}".lower()
    more = {"endpoint": name, "ledger": ledger, "answer": ANY, "foreign": True, **about}
    return json_route(blueprint, method, *both, **more)


@_route("POST", "audio", POSTED["audio"], body="ForwardedRequest")
@_route("POST", "images", POSTED["images"], body="ForwardedRequest")
def posted(services: Services, record: Record) -> Response:
    """Forwarded to the server of the model: audio and images, as JSON or a form."""
    return forwarded(services, record, _full(record.route, services.settings.api_prefix))


@_route("GET", "audio", LISTED[:1])
@_route("GET", "images", LISTED[1:])
def listed(services: Services, record: Record) -> Response:
    """Forwarded to the server of the model that the query names."""
    model_name = request.args.get("model", "")
    model = _named(services, model_name)
    path = _full(record.route, services.settings.api_prefix)
    _with_query(path, request.environ)  # it is bounded
    others = [pair for pair in request.args.items(multi=True) if pair[0] != "model"]
    headers = sent_headers(request.environ)

    def make(name: str) -> Call:
        query = urlencode([*others, ("model", name or model_name)])
        return Call("GET", f"{path}?{query}", headers)

    return _answer(services, record, model, make, counts=False)


@json_route(
    blueprint,
    "GET POST PUT PATCH DELETE",
    UPSTREAM,
    answer=ANY,
    foreign=True,
    group="admin",
    tag="slotproxy",
    ledger="upstream",
)
def upstream(services: Services, record: Record, rest: str) -> Response:
    """Forwarded to any path of the server of a model that the gateway starts; for the keys of
    `--admins`."""
    permissions.check_admin(services, record.key)
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        raise Forbidden("pages of other sites may not use the servers of models")
    model, path = _place(services, rest)
    check_model(services, request.environ, model)
    environ = request.environ
    reads = request.method in ("GET", "HEAD")
    method = "GET" if reads else request.method
    headers = sent_headers(environ)
    kind = environ.get("CONTENT_TYPE", "")
    limit = max(services.settings.max_body, services.settings.max_document)
    with read_raw(environ, limit) as sent:
        if sent is not None and kind.isascii() and kind.isprintable():
            headers["Content-Type"] = kind
        call = Call(method, _with_query(path, environ), headers, sent)
        return _answer(services, record, model, lambda name: call, counts=not reads)


def forwarded(services: Services, record: Record, path: str) -> Response:
    """Forward the current request to `path` of the model that its body names."""
    with read_body(services, request.environ) as sent:
        model = _named(services, sent.model)
        if isinstance(sent, FormBody) and path in HEARD:
            sent.check_recording()
        if isinstance(sent, JSONBody):
            sent = JSONBody(with_preset(services, sent.fields, path))
        return _sent(services, record, model, path, sent)


def by_other_server(
    services: Services, record: Record, path: str, fields: dict[str, Any]
) -> Response | None:
    """The answer of a server of another API; None if the gateway asks the model itself."""
    name = fields.get("model")
    registry = services.gateway.registry
    if not isinstance(name, str) or not registry.forwards(name):
        return None
    model = _named(services, name)
    return _sent(services, record, model, path, JSONBody(with_preset(services, fields, path)))


def _named(services: Services, name: str) -> str:
    """The pool of this name. Raises InvalidParameter, ModelNotFound and Forbidden."""
    if not name:
        raise InvalidParameter("model", f"is missing: {REMEDY}")
    model = services.gateway.registry.named(name)
    check_model(services, request.environ, name)
    return model


def _sent(
    services: Services, record: Record, model: str, path: str, body: JSONBody | FormBody
) -> Response:
    headers = {**sent_headers(request.environ), "Content-Type": body.content_type}

    def make(name: str) -> Call:
        form = body if isinstance(body, FormBody) else None
        return Call("POST", path, headers, body.named(name), form)

    return _answer(services, record, model, make)


def _answer(
    services: Services, record: Record, model: str, make: CallMaker, *, counts: bool = True
) -> Response:
    """The answer of the model's server as it arrives. The request's body must have been read.
    Raises Unsupported if a server of chats does not know the route, and that is not /upstream."""
    record.info.model = model
    cancel = Cancel()
    services.observer.begin(record, cancel)
    record.stop = disconnect.watch(request.environ, cancel)
    caller = services.callers.caller(record.key, request.environ)
    if caller.allowance is not None:
        caller.allowance.for_model(partial(services.gateway.registry.names_of, model))
    admitted = Admitted(
        caller if counts else msgspec.structs.replace(caller, allowance=None), model
    )
    record.shown = permissions.shown_names(services, record.key)

    def on_release(seconds: float) -> None:
        record.info.slot_seconds += seconds
        tokens = record.info.usage
        admitted.settle(Used(tokens.prompt, tokens.cached, tokens.completion, seconds))

    try:
        answer = services.forwarder.forward(
            model,
            make,
            cancel,
            caller,
            info=record.info,
            counts=counts,
            on_slot=admitted.on_slot,
            on_release=on_release,
        )
        is_chats = UPSTREAM not in record.route and not services.gateway.registry.forwards(model)
        if answer.status in (404, 501) and is_chats:  # 501: its model does not hear
            answer.close()
            what = f"the server of the model {model} has no {record.route}"
            raise Unsupported(f"{what}: {REMEDY}", param="model")
    except BaseException:
        admitted.close()
        raise
    record.status, record.stream = answer.status, True
    finish = partial(services.observer.finish, record)

    def close() -> None:
        try:
            answer.close()
        finally:
            admitted.close()

    body = SlotBody(_parts(answer, record), close, finish)
    headers = {"content-type": "application/octet-stream", **answer.headers, **NO_RIGHTS}
    return Response(body, answer.status, headers, direct_passthrough=True)


def _parts(answer: Forwarded, record: Record) -> Iterator[bytes]:
    """The answer as it arrives, cancelled unless it arrives whole. Raises BrokenAnswer."""
    record.info.outcome = Cancelled.type
    tail, kind = b"", answer.headers.get("content-type", "")
    is_text = "json" in kind or "event-stream" in kind
    try:
        for part in answer:
            if is_text:
                tail = (tail + part)[-TAIL:]
            yield part
        record.info.usage = answer.usage or usage_heard(tail)
    except GatewayError as error:
        if type(error) is not Cancelled:
            record.info.outcome = error.code or error.type
        raise BrokenAnswer(error.message) from None
    record.info.outcome = ""


def _full(route: str, prefix: str) -> str:
    """The path of a route at a model's server."""
    path = route.removeprefix(prefix)
    return path if path.startswith(("/v1/", "/sdapi/")) else f"/v1{path}"


def _place(services: Services, rest: str) -> tuple[str, str]:
    """The model and the path at its server. The name of a model may contain slashes, so the longest
    that is known counts. Raises ModelNotFound, BadRequest."""
    words = rest.split("/")
    for end in range(len(words), 0, -1):
        hosted = services.host.find("/".join(words[:end]))
        if hosted is not None:
            path = words[end:]
            if any(word in (".", "..") for word in path) or not "".join(path).isprintable():
                raise BadRequest("a path may not contain . and .. or control characters")
            return hosted.name, quote("/" + "/".join(path), SAFE)
    raise ModelNotFound(f"the gateway starts no model of the name {words[0][:100]!r}")


def _with_query(path: str, environ: Environ) -> str:
    query = environ.get("QUERY_STRING", "")
    if len(query) > MAX_QUERY or not all("!" <= letter <= "~" for letter in query):
        raise BadRequest(f"a query may have at most {MAX_QUERY} visible ASCII characters")
    return f"{path}?{query}" if query else path


# Bodies of requests that are forwarded: read within bounds, and written again with the name that
# the server has for the model. A form is written anew rather than passed on, so the model that is
# read here is the one that the server reads, whatever else the client's form contains.
MULTIPART = "multipart/form-data"
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9.+-]{1,100}/[A-Za-z0-9.+-]{1,100}")
_encode = msgspec.json.Encoder().encode


@contextlib.contextmanager
def read_body(services: Services, environ: Environ) -> Iterator[JSONBody | FormBody]:
    """The form or JSON object of a request, for a block. Raises BadRequest, BodyTooLarge."""
    settings = services.settings
    if not environ.get("CONTENT_TYPE", "").lower().startswith(MULTIPART):
        yield JSONBody(read_json(environ, settings.max_body))
        return
    with read_form(environ, settings.max_document, settings.max_body) as form:
        yield FormBody(form)


@contextlib.contextmanager
def read_raw(environ: Environ, limit: int) -> Iterator[CallBody | None]:
    """The body of a request, None if there is none, for a block. Raises BodyTooLarge."""
    with spooled(environ, limit) as file:
        size = file.seek(0, os.SEEK_END)
        yield CallBody(size, _Parts([file])) if size else None


class JSONBody:
    """A JSON object. `model` is the model that it names, "" if it names none."""

    content_type = "application/json"

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.model = model_name(fields)

    def named(self, model: str) -> CallBody:
        """The body to send. `model` replaces the name of the model unless it is empty."""
        data = _encode({**self.fields, "model": model} if model else self.fields)
        return CallBody(len(data), (data,))


class FormBody:
    """A form, like a JSON object."""

    def __init__(self, form: MultipartForm) -> None:
        self._form = form
        self._boundary = new_id()
        self.content_type = f"{MULTIPART}; boundary={self._boundary}"
        self.model = model_name(form.fields)

    def named(self, model: str) -> CallBody:
        values = [(name, value) for name, value in self._form.values if name != "model"]
        if chosen := model or self.model:
            values.append(("model", chosen))
        return self.written(values)

    def hearing(self) -> Hearing:
        return parse_hearing(self._form.values)

    def check_recording(self) -> None:
        """Raises InvalidParameter without a file, or for one that is too long."""
        file = next((file.data for file in self._form.files if file.field == "file"), None)
        if file is None:
            raise InvalidParameter("file", "is missing: send the recording as a file of this name")
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if wav_seconds(file.read(HEAD), size) > LONGEST_RECORDING:
            raise InvalidParameter("file", f"may last at most {LONGEST_RECORDING} seconds")

    def written(self, values: Sequence[tuple[str, str]]) -> CallBody:
        parts: list[bytes | IO[bytes]] = [
            self._head(name) + value.encode("utf-8", "replace") + b"\r\n" for name, value in values
        ]
        for file in self._form.files:
            if file.field == "model":
                raise BadRequest("the form part model must be a text, not a file", param="model")
            kind = file.kind if _MEDIA_TYPE.fullmatch(file.kind) else "application/octet-stream"
            head = self._head(file.field, f'; filename="{_quoted(file.name)}"', kind)
            parts += [head, file.data, b"\r\n"]
        parts.append(f"--{self._boundary}--\r\n".encode())
        sizes = [len(p) if isinstance(p, bytes) else p.seek(0, os.SEEK_END) for p in parts]
        return CallBody(sum(sizes), _Parts(parts))

    def _head(self, name: str, more: str = "", kind: str = "") -> bytes:
        lines = [
            f"--{self._boundary}",
            f'Content-Disposition: form-data; name="{_quoted(name)}"{more}',
            *([f"Content-Type: {kind}"] if kind else []),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "replace")


def _quoted(name: str) -> str:
    """A name within quotes, as browsers write it. Raises BadRequest."""
    if not name.isprintable() or "\\" in name:
        raise BadRequest(
            "the name of a form part or file contains a control character or a backslash: rename it"
        )
    return name.replace('"', "%22")


# -- recordings

LONGEST_RECORDING = 4 * 3600  # seconds of a recording whose header says how long it is
HEAD = 4096  # bytes of a file in which that header ends
GRANULARITIES = "timestamp_granularities[]"
_LANGUAGE = re.compile(r"[A-Za-z]{2,20}(-[A-Za-z]{2,8})?")
_SHARE = re.compile(r"0?\.\d{1,20}|[01](\.0{0,20})?")


def parse_hearing(values: Sequence[tuple[str, str]]) -> Hearing:
    """A form of transcriptions or translations, as OpenAI's. Raises InvalidParameter."""
    form = {name: value for name, value in values if value}
    language = form.get("language", "")
    if language and not _LANGUAGE.fullmatch(language):
        raise InvalidParameter("language", "must be a code such as en")
    temperature = form.get("temperature", "")
    if temperature and not _SHARE.fullmatch(temperature):
        raise InvalidParameter("temperature", "must be a number from 0 to 1")
    times = {value for name, value in values if name == GRANULARITIES}
    if not times <= {"word", "segment"}:
        raise InvalidParameter(GRANULARITIES, "must be word or segment")
    return Hearing(
        language=language,
        prompt=form.get("prompt", ""),
        temperature=temperature,
        format=cast(Format, choice(form, "response_format", get_args(Format), "json")),
        stream=form.get("stream", "").lower() in ("true", "1"),
        words="word" in times,
        segments=times != {"word"},
    )


def wav_seconds(head: bytes, size: int) -> float:
    """The length of a WAV file of `size` bytes that begins so; 0 for another file. Of a header that
    names more bytes than there are, those that there are count."""
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return 0.0
    at, rate = 12, 0
    while at + 8 <= len(head):
        name, length = head[at : at + 4], int.from_bytes(head[at + 4 : at + 8], "little")
        if name == b"fmt ":
            rate = int.from_bytes(head[at + 16 : at + 20], "little")  # bytes of a second
        elif name == b"data":
            return min(length, size - at - 8) / rate if rate else 0.0
        at += 8 + length + length % 2
    return 0.0


class _Parts:
    """Bytes and files one after the other, from their beginnings each time."""

    def __init__(self, parts: Sequence[bytes | IO[bytes]]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
                continue
            part.seek(0)
            while data := part.read(PIECE):
                yield data


def sent_headers(environ: Mapping[str, Any]) -> dict[str, str]:
    """The headers that a server may see: never keys, cookies, or those of the connection."""
    named = {name: environ.get(f"HTTP_{name.upper().replace('-', '_')}") for name in _SENT}
    return {name: text for name, text in named.items() if text and _HARMLESS.fullmatch(text)}


_SENT = ("Accept", "Accept-Language", "If-Modified-Since", "If-None-Match", "Range", "User-Agent")
_HARMLESS = re.compile(r"[\x20-\x7e]{1,1000}")
