"""Answers that are made piece by piece: one JSON document a chunk, or all of them as one.

Its client parses every chunk by itself, so a document leaves in one write. The first is made before
the status is sent: a full queue is still a 429. What fails later is said as the last document.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

from flask import Response, request

from ...cancel import Cancel
from ...core.invalid import Invalid
from ...dialects.chatchat import answer
from ...errors import BadRequest, Cancelled, GatewayError
from ...gateway import Caller
from .. import disconnect
from ..body import JSON
from ..exchange import STREAM_HEADERS
from ..observe import Record
from ..reply import Reply
from ..services import Services, services
from .view import asked as body
from .view import owner, refused

Documents = Generator[answer.Document, None, None]


class Call(NamedTuple):
    """One request, as far as its answer needs to know it."""

    here: Services
    record: Record
    caller: Caller
    cancel: Cancel
    body: dict[str, Any]

    @property
    def owner(self) -> str:
        return self.record.key


class Speech(NamedTuple):
    """`documents` is closed on every way out."""

    stream: bool
    documents: Documents


class Form(NamedTuple):
    """How a document, or all of them as one, reads on the wire."""

    chunk: Callable[[answer.Document], bytes]
    content_type: str
    whole: str


DOCUMENTS = Form(answer.chunk, answer.CONTENT_TYPE, JSON)
TEXT = Form(answer.plain, answer.CONTENT_TYPE, "text/plain; charset=utf-8")


def speak(view: Callable[[Call], Speech], form: Form = DOCUMENTS) -> Response:
    """Answer the current request with what `view` says."""
    here = services()
    environ = request.environ
    record = Record.of(environ)
    here.observer.begin(record)
    cancel = Cancel()
    speech: Speech | None = None

    def done() -> None:
        try:
            if speech is not None:
                speech.documents.close()
        finally:
            here.observer.end(record)

    try:
        record.key = owner(here, environ)
        caller = here.callers.caller(record.key, environ)
        asked = body(here)
        record.stop = disconnect.watch(environ, cancel)
        speech = view(Call(here, record, caller, cancel, asked))
        if speech.stream:
            first = next(speech.documents, {})
            record.status, record.stream = 200, True
            parts = _Parts(first, speech.documents, form, done)
            return Reply(parts, form.content_type, [*record.headers(), *STREAM_HEADERS])
        whole = form.chunk(answer.whole(speech.documents))
    except (GatewayError, Invalid) as error:
        response = refused(error, record)
        done()
        return response
    except BaseException:
        record.status = 500
        done()
        raise
    record.status = 200
    response = Reply(whole, form.whole, record.headers())
    done()
    return response


class _Parts:
    """The body of a stream. A WSGI server calls close() also when the client is gone."""

    holds_slot = True  # for the server: others wait for the end of this one

    def __init__(
        self, first: answer.Document, rest: Documents, form: Form, done: Callable[[], None]
    ) -> None:
        self._parts = self._encoded(first, rest, form)
        self._done: Callable[[], None] | None = done

    def __iter__(self) -> Iterator[bytes]:
        return self._parts

    def close(self) -> None:
        done, self._done = self._done, None
        if done is not None:
            done()

    def _encoded(self, first: answer.Document, rest: Documents, form: Form) -> Iterator[bytes]:
        try:
            if first:
                yield form.chunk(first)
            for document in rest:
                yield form.chunk(document)
        except Cancelled:
            return
        except Invalid as error:
            yield answer.chunk(answer.failure(BadRequest(str(error), param=error.param)))
        except GatewayError as error:
            yield answer.chunk(answer.failure(error))
