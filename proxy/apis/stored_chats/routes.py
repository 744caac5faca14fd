"""Chat completions that are stored: `store` in the request, and the routes that read, change and
delete them. They are kept with the responses, within the same bounds."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, NoReturn

import msgspec
from flask import request

from ...core.events import Batch
from ...core.fold import Completion, Fold
from ...core.request import CompletionRequest
from ...errors import GatewayError, InvalidParameter, NotFound, StoreUnavailable
from ...runtime.cancel import Cancel
from ...store.responses import Stored
from ...web import body
from ...web.body import parsed
from ...web.metadata import with_metadata
from ...web.observability import Record
from ...web.routes import Api
from ...web.services import Services
from ...web.spine import json_route
from .. import listing
from ..openai import chat as openai_chat
from ..response_meta import ResponseMeta
from . import objects as stored_chats

blueprint = Api("stored_chats", __name__, group="chat", tag="OpenAI")
log = logging.getLogger("slotproxy.stored_chats")

ROUTES = "/v1/chat/completions", "/chat/completions"
ROUTE = tuple(f"{route}/<key>" for route in ROUTES)
MESSAGES = tuple(f"{route}/messages" for route in ROUTE)


def storing(
    services: Services,
    record: Record,
    environ: dict[str, Any],
    body: Mapping[str, Any],
    cancel: Cancel,
) -> StoringDialect | None:
    """The dialect of a chat completion that is to be stored; None if it is not."""
    return StoringDialect(services, record, environ) if body.get("store") else None


class StoringDialect:
    """OpenAI's chat completions for one request, whose answer is stored. If that fails, the client
    gets its answer all the same."""

    def __init__(self, services: Services, record: Record, environ: dict[str, Any]) -> None:
        self._services = services
        self._record = record
        self._environ = environ
        self._begun = time.time()
        self._messages = b"[]"
        self._metadata: dict[str, str] = {}

    def parse(self, raw: Mapping[str, Any]) -> CompletionRequest:
        """Raises InvalidParameter."""
        asked = parsed(partial(openai_chat.parse, raw), self._environ)
        self._metadata = stored_chats.to_store(raw) or {}
        self._messages = msgspec.json.encode(raw["messages"])
        return asked

    def reply(
        self, meta: ResponseMeta, request: CompletionRequest, completions: Sequence[Completion]
    ) -> Any:
        whole = openai_chat.reply(meta, request, completions)
        self.keep(whole)
        return {**whole, "metadata": self._metadata}

    def Encoder(self, meta: ResponseMeta, request: CompletionRequest) -> StoringEncoder:
        return StoringEncoder(self, meta, request)

    def error(self, fault: GatewayError) -> dict[str, Any]:
        return openai_chat.error(fault)

    def keep(self, whole: dict[str, Any]) -> None:
        """Store an answer."""
        chat = msgspec.json.encode({**whole, "metadata": self._metadata})
        kept = Stored(chat, self._messages)
        owner, key = self._record.key, whole["id"]
        try:
            self._services.chats.put(owner, key, whole["created"], kept, self._begun)
        except StoreUnavailable as fault:
            log.error("chat completion %s could not be stored: %s", key, fault.detail)


class StoringEncoder:
    """Encodes a stream, and stores the answer when all its choices are finished."""

    def __init__(
        self, dialect: StoringDialect, meta: ResponseMeta, request: CompletionRequest
    ) -> None:
        self._dialect = dialect
        self._meta = meta
        self._request = request
        self._encoder = openai_chat.Encoder(meta, request)
        self._folds: dict[int, Fold] = {}
        self.content_type = self._encoder.content_type
        self.fail = self._encoder.fail

    def encode(self, choice: int, batch: Batch) -> bytes:
        self._folds.setdefault(choice, Fold(choice)).add(batch)
        return self._encoder.encode(choice, batch)

    def end(self) -> bytes:
        folds = [self._folds[choice] for choice in sorted(self._folds)]
        if folds and all(fold.finished is not None for fold in folds):
            answer = [fold.result() for fold in folds]
            self._dialect.keep(openai_chat.reply(self._meta, self._request, answer))
        return self._encoder.end()


@json_route(blueprint, "GET", *ROUTES)
def listed(services: Services, record: Record) -> Any:
    """The stored chat completions of the key."""
    query = stored_chats.wanted(request.args)
    page, ids = query.page, services.chats.ids(record.key)
    if not page.ascending:
        ids.reverse()
    if page.after:
        if page.after not in ids:
            raise InvalidParameter("after", "is not the id of a stored chat completion")
        ids = ids[ids.index(page.after) + 1 :]
    kept = (services.chats.get(record.key, key) for key in ids)
    chats = (msgspec.json.decode(one.response) for one in kept if one is not None)
    found = list(islice((c for c in chats if stored_chats.matches(c, query)), page.limit + 1))
    part = found[: page.limit]
    return {
        "object": "list",
        "data": part,
        "first_id": part[0]["id"] if part else None,
        "last_id": part[-1]["id"] if part else None,
        "has_more": len(found) > page.limit,
    }


@json_route(blueprint, "GET", *ROUTE, reply="ChatCompletion")
def read(services: Services, record: Record, key: str) -> Any:
    """A stored chat completion."""
    return msgspec.Raw(_kept(services, record, key).response)


@json_route(blueprint, "POST", *ROUTE, body="StoredChatChange", reply="ChatCompletion")
def change(services: Services, record: Record, key: str) -> Any:
    """Change the metadata of a stored chat completion."""
    metadata = stored_chats.change(body.read_json(request.environ, services.settings.max_body))
    changed = partial(with_metadata, metadata=metadata)
    return msgspec.Raw((services.chats.change(record.key, key, changed) or _missing(key)).response)


@json_route(blueprint, "DELETE", *ROUTE)
def delete(services: Services, record: Record, key: str) -> Any:
    """Delete a stored chat completion."""
    if not services.chats.delete(record.key, key):
        _missing(key)
    return stored_chats.deleted(key)


@json_route(blueprint, "GET", *MESSAGES)
def messages(services: Services, record: Record, key: str) -> Any:
    """The messages of a stored chat completion."""
    page = listing.parse({"order": "asc", **request.args})
    given = msgspec.json.decode(_kept(services, record, key).items)
    found = stored_chats.messages(given, key)
    return listing.reply(page, found, lambda one: one["id"], lambda one: one)


def _kept(services: Services, record: Record, key: str) -> Stored:
    return services.chats.get(record.key, key) or _missing(key)


def _missing(key: str) -> NoReturn:
    raise NotFound(
        f"no stored chat completion {key[:100]!r}: only those made with store: true are kept"
    )
