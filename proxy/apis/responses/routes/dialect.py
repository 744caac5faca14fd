"""The Responses API as a dialect: what a response continues, and what is stored of it."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from ....accounts.rights import Permissions
from ....core.conversation import asking, shortened
from ....core.fold import Completion
from ....core.request import CompletionRequest
from ....errors import BadRequest, GatewayError, StoreUnavailable
from ....gateway import Caller
from ....gateway.prewarm import warm_up
from ....runtime.cancel import Cancel
from ....store.responses import OTHERS, Stored
from ....web.body import costs_much, decode, parsed
from ....web.observability import Record
from ....web.permissions import of_caller
from ....web.services import Services
from ....web.stream import EventSource
from ... import fields
from ...conversations.routes import append, kept_conversation
from ...openai.answer import error
from ...response_meta import ResponseMeta
from .. import answer
from ..items import conversation_of, listed
from ..request import ParsedRequest, parse

ROOM = 256  # tokens kept free for the answer when the oldest messages may be dropped
log = logging.getLogger("slotproxy.responses")


class ResponsesDialect:
    parsed: ParsedRequest
    error = staticmethod(error)

    def __init__(
        self, services: Services, environ: dict[str, Any], recent: dict[str, Stored] | None = None
    ) -> None:
        """`recent` holds the last response of a connection by its id, stored or not."""
        self._services = services
        self._environ = environ
        self._recent = recent
        self._begun = time.time()
        self.owner = ""
        self.cancel = Cancel()
        self._conversation = ""  # the id of its conversation
        self._new = 0  # items before the new ones
        self._read = 0  # bytes of stored responses read so far

    def parse(self, body: Mapping[str, Any]) -> CompletionRequest:
        self.owner = self._services.keys.check(self._environ)
        searches = self._services.dialogues.searches
        earlier = self._earlier(body)
        self._new = len(earlier)
        # Read everything from the store before parsing: the store waits for locks of the event
        # loop, and parsing may run in another thread.
        find = self._referable(body.get("input"), earlier).get
        read = partial(parse, body, earlier, searches, find)
        self.parsed = parsed(read, self._environ, body, self._read)
        request = self.parsed.request
        # A continued conversation is named after the first item that has an id, which all later
        # responses repeat.
        ids = (item.get("id") for item in earlier if type(item) is dict)
        first = next((name for name in ids if type(name) is str and name), "")
        return msgspec.structs.replace(request, session=request.session or first)

    def reply(
        self, meta: ResponseMeta, request: CompletionRequest, completions: Sequence[Completion]
    ) -> Any:
        whole = answer.whole(meta, self.parsed, completions)
        self._keep(whole)
        return whole

    def Encoder(self, meta: ResponseMeta, request: CompletionRequest) -> answer.Encoder:
        return answer.Encoder(meta, self.parsed, self._keep)

    def begin(self, request: CompletionRequest, cancel: Cancel, caller: Caller) -> EventSource:
        """Start the answer, including any searches and calls to MCP servers."""
        services = self._services
        self.cancel = cancel
        if self.parsed.store:
            services.ongoing.add(self)
        request = self.fitted(request, cancel, caller.may)
        if request.runs_tools:
            answer = services.dialogues.answer(request, self.owner, cancel, caller)
            if not self.parsed.prefill_only:
                return answer
            request = answer.offering()
        elif not self.parsed.prefill_only:
            return services.gateway.answer(request, cancel, caller)
        return warm_up(services.gateway, request, cancel, caller)

    def fitted(
        self, request: CompletionRequest, cancel: Cancel, may: Permissions
    ) -> CompletionRequest:
        """Drop the oldest messages if the request allows it. Raises like `Gateway.count`."""
        if self.parsed.repeated["truncation"] != "auto":
            return request
        room = min(request.max_tokens or ROOM, ROOM)
        gateway = self._services.gateway
        return shortened(request, lambda part: gateway.fits(part, room, cancel, may=may))

    def in_background(self, body: Mapping[str, Any], _: Cancel) -> dict[str, Any] | None:
        """Start a background response, if asked for one. It outlasts the request."""
        if body.get("background") is not True:
            return None
        services = self._services
        request = of_caller(services, self._environ, self.parse(body))
        model = services.gateway.registry.resolve(request.model)[1]
        record = Record(self._environ)
        record.key, record.route = self.owner, record.path
        meta = ResponseMeta(
            f"resp_{uuid.uuid4().hex}", int(time.time()), model, "slotproxy", record.elapsed
        )
        caller = services.callers.caller(self.owner, self._environ)
        record.user, record.team = caller.user, caller.team
        record.tags = Record.of(self._environ).tags
        self.cancel = cancel = Cancel()
        services.ongoing.add(self)
        answering = partial(self.begin, request, cancel, caller)
        return services.jobs.begin(
            self.owner, meta, self.parsed, record, cancel, answering, self._begun, self._add
        )

    def _earlier(self, body: Mapping[str, Any]) -> tuple[Any, ...]:
        self._conversation = conversation_of(body)
        if self._conversation:
            conversation = kept_conversation(self._services, self.owner, self._conversation)
            return tuple(self._decoded(conversation.items, "conversation"))
        previous = fields.text(body, "previous_response_id")
        if not previous:
            return ()
        stored = (self._recent or {}).get(previous)
        stored = stored or kept_response(self._services, self.owner, previous)
        if stored is None:
            raise BadRequest(
                f"no such response: {previous[:100]!r}",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        output = self._decoded(stored.response, "previous_response_id")["output"]
        return (*self._decoded(stored.items, "previous_response_id"), *output)

    def _referable(self, input_items: Any, earlier: Sequence[Any]) -> dict[str, Any]:
        """The items that the input may reference, by id. Each stored response is read once."""
        by_id = {item["id"]: item for item in earlier if type(item) is dict and "id" in item}
        keys = set()
        for item in input_items if type(input_items) is list else ():
            match item:
                case {"type": "item_reference", "id": str(name)} if name not in by_id:
                    keys.add(answer.response_id(name))
        for key in keys:
            stored = kept_response(self._services, self.owner, key)
            if stored is None:
                break  # the request will be refused because of this item
            output = self._decoded(stored.response, "input")["output"]
            items = listed(self._decoded(stored.items, "input"), key)
            for item in (*items, *output):
                by_id.setdefault(item.get("id"), item)
        return by_id

    def _decoded(self, data: bytes, param: str) -> Any:
        """Decode a part of a stored response. Raises BadRequest if all together are too large."""
        self._read += len(data)
        if self._read > self._services.settings.max_body or costs_much(data):
            raise BadRequest(
                "the continued conversation is too long: start a new one",
                param=param,
                code="conversation_too_long",
            )
        return decode(data)

    def _add(self, response: dict[str, Any]) -> None:
        """Add the new items and the output to the conversation, if that is possible."""
        if not self._conversation or response["status"] == "failed":
            return
        new = [*self.parsed.input[self._new :], *response["output"]]
        try:
            append(self._services, self.owner, self._conversation, new)
        except GatewayError as fault:
            log.error("%s could not be continued: %s", self._conversation, fault.detail)

    def _keep(self, response: dict[str, Any]) -> None:
        """Store the response; if that fails, the client gets it with `store` set to false."""
        self._add(response)
        if not self.parsed.store and self._recent is None:
            return
        value = Stored(msgspec.json.encode(response), msgspec.json.encode(self.parsed.input))
        if self._recent is not None and response["status"] != "failed":
            self._recent.clear()
            self._recent[response["id"]] = value
        if not self.parsed.store:
            return
        created = response["created_at"]
        try:
            self._services.store.put(self.owner, response["id"], created, value, self._begun)
        except StoreUnavailable as fault:
            log.error("response %s could not be stored: %s", response["id"], fault.detail)
            response["store"] = False


def kept_response(services: Services, owner: str, key: str) -> Stored | None:
    return None if key.startswith(OTHERS) else services.store.get(owner, key)


class CompactDialect(ResponsesDialect):
    """The dialect of POST /v1/responses/compact. Nothing is stored."""

    def parse(self, body: Mapping[str, Any]) -> CompletionRequest:
        return asking(super().parse(answer.compact_body(body)))

    def reply(
        self, meta: ResponseMeta, request: CompletionRequest, completions: Sequence[Completion]
    ) -> Any:
        return answer.compacted(meta, self.parsed, completions)
