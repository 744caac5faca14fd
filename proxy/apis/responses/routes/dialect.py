"""The Responses API as a dialect: what a response continues, and what is stored of it.

Each request gets a dialect object of its own, since parsing depends on stored responses, and
answers are stored.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from ....core.conversation import asking, shortened
from ....core.fold import Completion
from ....core.request import CompletionRequest
from ....errors import BadRequest, GatewayError, StoreUnavailable
from ....gateway import Caller
from ....runtime.cancel import Cancel
from ....store.responses import Stored
from ....web.body import costs_much, parsed
from ....web.observability import Record
from ....web.services import Services
from ....web.stream import EventSource
from ... import fields, responses
from ...conversations.routes import append, kept_conversation
from ...response_meta import ResponseMeta

ROOM = 256  # tokens kept free for the answer when the oldest messages may be dropped
log = logging.getLogger("slotproxy.responses")


class Recent:
    """The last response of a connection: continued from there, it need not be stored."""

    def __init__(self) -> None:
        self._id = ""
        self._value: Stored | None = None

    def keep(self, response_id: str, value: Stored) -> None:
        self._id, self._value = response_id, value

    def get(self, response_id: str) -> Stored | None:
        return self._value if response_id == self._id else None

    def forget(self, response_id: str) -> None:
        if response_id == self._id:
            self._value = None


class ResponsesDialect:
    """The dialect of one request."""

    def __init__(
        self, services: Services, environ: dict[str, Any], recent: Recent | None = None
    ) -> None:
        """`recent` holds the last response of a connection, stored or not."""
        self._services = services
        self._environ = environ
        self._recent = recent
        self._begun = time.time()
        self.owner = ""
        self.cancel = Cancel()
        self._asked: responses.ParsedRequest | None = None
        self._conversation = ""  # the id of its conversation
        self._new = 0  # items before the new ones
        self._read = 0  # bytes of stored responses read so far

    def parse(self, body: Mapping[str, Any]) -> CompletionRequest:
        """Raises InvalidParameter or BadRequest (the previous response is unknown)."""
        self.owner = self._services.keys.check(self._environ)
        searches = self._services.dialogues.searches
        earlier = self._earlier(body)
        self._new = len(earlier)
        # Read everything from the store before parsing: the store waits for locks of the event
        # loop, and parsing may run in another thread.
        find = self._named(body.get("input"), _by_id(earlier)).get
        parse = partial(responses.parse, body, earlier, searches, find)
        asked = parsed(parse, self._environ, self._read)
        self._asked = asked
        if asked.request.session:
            return asked.request
        return msgspec.structs.replace(asked.request, session=_beginning(earlier))

    def reply(
        self, meta: ResponseMeta, request: CompletionRequest, completions: Sequence[Completion]
    ) -> Any:
        whole = responses.whole(meta, self._known, completions)
        self._keep(whole)
        return whole

    def Encoder(self, meta: ResponseMeta, request: CompletionRequest) -> responses.Encoder:
        return responses.Encoder(meta, self._known, self._keep)

    def error(self, fault: GatewayError) -> dict[str, Any]:
        return responses.error(fault)

    def begin(self, request: CompletionRequest, cancel: Cancel, caller: Caller) -> EventSource:
        """Start the answer, including any searches and calls to MCP servers."""
        services = self._services
        self.cancel = cancel
        if self._known.store:
            services.ongoing.add(self)
        request = self.fitted(request, cancel, caller.may.barred_tiers)
        if not request.runs_tools:
            return services.gateway.answer(request, cancel, caller)
        return services.dialogues.answer(request, self.owner, cancel, caller)

    def fitted(
        self, request: CompletionRequest, cancel: Cancel, barred: frozenset[str]
    ) -> CompletionRequest:
        """Drop the oldest messages if the request allows it and the model's context is too small
        for all. Backends outside of the `barred` tiers count them. Raises Cancelled and everything
        that `Gateway.count` raises."""
        if not self._known.shortens:
            return request
        room = min(request.max_tokens or ROOM, ROOM)
        gateway = self._services.gateway
        return shortened(request, lambda some: gateway.fits(some, room, cancel, barred=barred))

    def in_background(self, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """Start a background response and return it as queued, if the request asks for one."""
        if body.get("background") is not True:
            return None
        services = self._services
        request = self.parse(body)
        model = services.gateway.registry.resolve(request.model)[1]
        record = Record(self._environ)
        record.key, record.route = self.owner, record.path
        meta = ResponseMeta(
            f"resp_{uuid.uuid4().hex}", int(time.time()), model, "slotproxy", record.elapsed
        )
        caller = services.callers.caller(self.owner, self._environ)
        record.user, record.team = caller.user, caller.team
        self.cancel = cancel = Cancel()
        services.ongoing.add(self)

        def answering() -> EventSource:
            return self.begin(request, cancel, caller)

        return services.jobs.begin(
            self.owner, meta, self._known, record, cancel, answering, self._begun, self._add
        )

    @property
    def _known(self) -> responses.ParsedRequest:
        assert self._asked is not None, "it was parsed first"
        return self._asked

    def _earlier(self, body: Mapping[str, Any]) -> tuple[Any, ...]:
        self._conversation = responses.conversations.named(body)
        if self._conversation:
            kept = kept_conversation(self._services, self.owner, self._conversation)
            return tuple(self._items(kept.items, "conversation"))
        previous = fields.text(body, "previous_response_id")
        if not previous:
            return ()
        recent = self._recent.get(previous) if self._recent is not None else None
        found = recent or self._services.store.get(self.owner, previous)
        if found is None:
            raise BadRequest(
                f"no such response: {previous[:100]!r}",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        output, items = self._decoded(found, "previous_response_id")
        return (*items, *output)

    def _named(self, given: Any, items_by_id: dict[str, Any]) -> dict[str, Any]:
        """Return the items that the input may reference, by id: those given, and output or input
        items of stored responses. Each response is read once."""
        known: set[str] = set()
        for item in given if type(given) is list else ():
            named = item.get("id") if type(item) is dict else None
            if type(named) is not str or item.get("type") != "item_reference":
                continue
            if named in items_by_id:
                continue
            key = responses.response_id(named)
            if key in known:
                continue
            known.add(key)
            kept = self._services.store.get(self.owner, key)
            if kept is None:
                return items_by_id  # the request will be refused because of this item
            output, items = self._decoded(kept, "input")
            for one in (*output, *responses.listed(items, key)):
                if "id" in one:
                    items_by_id.setdefault(one["id"], one)
        return items_by_id

    def _decoded(self, kept: Stored, param: str) -> tuple[list[Any], list[Any]]:
        """Return output and input of a stored response. Raises BadRequest if all stored responses
        of this request together exceed the size of a body, or take too long to decode."""
        output = self._items(kept.response, param)["output"]
        return output, self._items(kept.items, param)

    def _items(self, kept: bytes, param: str) -> Any:
        self._read += len(kept)
        if self._read > self._services.settings.max_body or costs_much(kept):
            raise BadRequest(
                "the continued conversation is too long: start a new one",
                param=param,
                code="conversation_too_long",
            )
        return msgspec.json.decode(kept)

    def _add(self, response: dict[str, Any]) -> None:
        """Add the new items and the output to the conversation. If that fails, the client still
        gets its answer."""
        if not self._conversation or response["status"] == "failed":
            return
        new = [*self._known.input[self._new :], *response["output"]]
        try:
            append(self._services, self.owner, self._conversation, new)
        except GatewayError as fault:
            log.error("%s could not be continued: %s", self._conversation, fault.detail)

    def _keep(self, response: dict[str, Any]) -> None:
        """Store the response. If that fails, the client still gets its answer, with `store` set to
        false."""
        self._add(response)
        asked, recent = self._known, self._recent
        if not asked.store and recent is None:
            return
        value = Stored(msgspec.json.encode(response), msgspec.json.encode(asked.input))
        if recent is not None and response["status"] != "failed":
            recent.keep(response["id"], value)
        if not asked.store:
            return
        try:
            self._services.store.put(
                self.owner, response["id"], response["created_at"], value, self._begun
            )
        except StoreUnavailable as fault:
            log.error("response %s could not be stored: %s", response["id"], fault.detail)
            response["store"] = False


def _by_id(items: Sequence[Any]) -> dict[str, Any]:
    return {item["id"]: item for item in items if type(item) is dict and "id" in item}


def _beginning(items: tuple[Any, ...]) -> str:
    """The name of a continued conversation: the id of the first item that has one, which all later
    responses repeat. "" for a new one."""
    for item in items:
        name = item.get("id") if type(item) is dict else None
        if type(name) is str and name:
            return name
    return ""


class CompactDialect(ResponsesDialect):
    """The dialect of POST /v1/responses/compact. Nothing is stored."""

    def parse(self, body: Mapping[str, Any]) -> CompletionRequest:
        """Raises InvalidParameter or BadRequest (the previous response is unknown)."""
        return asking(super().parse(responses.compact_body(body)))

    def reply(
        self, meta: ResponseMeta, request: CompletionRequest, completions: Sequence[Completion]
    ) -> Any:
        return responses.compacted(meta, self._known, completions)
