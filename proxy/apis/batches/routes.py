"""Routes of OpenAI's batches: create, list, read and cancel."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from flask import request

from ...errors import BadRequest, InvalidParameter, NotFound
from ...store.records import OPEN, RequestBatch, new_id
from ...web.observability import Record
from ...web.routes import Api
from ...web.services import Services
from ...web.spine import sent_json, v1_route
from ..fields import page_of
from ..vector_stores.routes import opened
from . import objects as batches

if TYPE_CHECKING:  # it imports SQLAlchemy
    from ...store.request_batches import RequestBatches

blueprint = Api("batches", __name__, group="files", tag="OpenAI: batches", schemas=batches.SCHEMAS)


@v1_route(blueprint, "POST", "/batches", body="BatchRequest")
def create(services: Services, record: Record) -> Any:
    """A batch of requests from an uploaded file."""
    fields, seconds = batches.parse(sent_json())
    store = _store(services)
    file = opened(services).file(record.key, fields["file_id"])
    if file.purpose != "batch":
        raise InvalidParameter(
            "input_file_id",
            f"names a file with the purpose {file.purpose}: upload it with the purpose batch",
        )
    now = time.time()
    batch = RequestBatch(
        id=new_id("batch_"),
        owner=record.key,
        created=now,
        times={"expires": now + seconds},
        peer=record.peer,
        **fields,
    )
    store.add(batch)
    _wake(services)
    return reply(batch)


@v1_route(blueprint, "GET", "/batches")
def listed(services: Services, record: Record) -> Any:
    """The batches of the key."""
    stored = _store(services).all(record.key)
    return page_of(request.args, stored, lambda batch: batch.id, reply)


@v1_route(blueprint, "GET", "/batches/<key>")
def read(services: Services, record: Record, key: str) -> Any:
    """How far a batch is."""
    return _reply(_store(services).get(record.key, key), key)


@v1_route(blueprint, "POST", "/batches/<key>/cancel")
def cancel(services: Services, record: Record, key: str) -> Any:
    """Cancel a batch."""
    batch = _store(services).cancel(record.key, key, time.time())
    _wake(services)
    return _reply(batch, key)


def _store(services: Services) -> RequestBatches:
    if services.batches is None:
        raise BadRequest("batches need the extra `knowledge`, which is not installed")
    return services.batches


def _wake(services: Services) -> None:
    assert services.batch_runner is not None, "there is one with every store"
    services.batch_runner.wake()


def _reply(batch: RequestBatch | None, key: str) -> dict[str, Any]:
    if batch is None:
        raise NotFound(f"no such batch: {key[:100]!r}", param="batch_id")
    return reply(batch)


def reply(batch: RequestBatch) -> dict[str, Any]:
    over = batch.status not in OPEN  # its files are whole
    read, cached, written, reasoning = batch.tokens
    names = "expires in_progress finalizing completed failed expired cancelling cancelled".split()
    times = {f"{name}_at": batch.times.get(name) for name in names}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model or None,
        "errors": {"object": "list", "data": batch.errors} if batch.errors else None,
        "input_file_id": batch.file_id,
        "completion_window": batch.window,
        "status": batch.status,
        "output_file_id": (over and batch.output_file) or None,
        "error_file_id": (over and batch.error_file) or None,
        "created_at": int(batch.created),
        **{name: None if at is None else int(at) for name, at in times.items()},
        "request_counts": {
            "total": batch.total,
            "completed": batch.completed,
            "failed": batch.failed,
        },
        "usage": {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": reasoning},
            "total_tokens": read + written,
        },
        "metadata": batch.metadata or None,
    }
