"""Routes of OpenAI's batches: create, list, read and cancel."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NoReturn

from flask import request

from ...errors import BadRequest, InvalidParameter, NotFound
from ...store.records import RequestBatch, new_id
from ...web import body
from ...web.observability import Record
from ...web.routes import Api
from ...web.services import Services
from ...web.spine import json_route
from ..fields import decimal
from ..vector_stores.routes import opened
from . import objects as batches

if TYPE_CHECKING:  # it imports SQLAlchemy
    from ...store.request_batches import RequestBatches

blueprint = Api(
    "batches",
    __name__,
    group="files",
    tag="OpenAI",
    schemas=batches.SCHEMAS,
)

MOST_LISTED, LISTED = 100, 20


@json_route(blueprint, "POST", "/v1/batches", "/batches", body="BatchRequest")
def create(services: Services, record: Record) -> Any:
    """A batch of requests from an uploaded file."""
    asked = batches.parse(body.read_json(request.environ, services.settings.max_body))
    store = _store(services)
    file = opened(services).file(record.key, asked.file_id)
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
        endpoint=asked.endpoint,
        file_id=asked.file_id,
        window=asked.window,
        times={"expires": now + asked.seconds},
        peer=record.peer,
        metadata=asked.metadata,
        lasts=asked.lasts,
    )
    store.add(batch)
    _wake(services)
    return batches.reply(batch)


@json_route(blueprint, "GET", "/v1/batches", "/batches")
def listed(services: Services, record: Record) -> Any:
    """The batches of the key."""
    most = decimal(request.args.get("limit") or str(LISTED), 1, MOST_LISTED)
    if most is None:
        raise InvalidParameter("limit", f"must be from 1 to {MOST_LISTED}")
    found = _store(services).page(record.key, most + 1, request.args.get("after") or "")
    return batches.listed(found[:most], more=len(found) > most)


@json_route(blueprint, "GET", "/v1/batches/<key>", "/batches/<key>")
def read(services: Services, record: Record, key: str) -> Any:
    """How far a batch is."""
    found = _store(services).get(record.key, key)
    return batches.reply(found) if found is not None else _missing(key)


@json_route(blueprint, "POST", "/v1/batches/<key>/cancel", "/batches/<key>/cancel")
def cancel(services: Services, record: Record, key: str) -> Any:
    """Cancel a batch.

    One that is finished stays as it is."""
    found = _store(services).cancel(record.key, key, time.time())
    if found is None:
        _missing(key)
    _wake(services)
    return batches.reply(found)


def _store(services: Services) -> RequestBatches:
    if services.batches is None:
        raise BadRequest("batches require pip install slotproxy[knowledge]")
    return services.batches


def _wake(services: Services) -> None:
    assert services.batch_runner is not None, "there is one with every store"
    services.batch_runner.wake()


def _missing(key: str) -> NoReturn:
    raise NotFound(f"no such batch: {key[:100]!r}", param="batch_id")
