"""One request for a Response: what it continues, and what is kept of it.

It is handed to the spine as a dialect of its own, since what it parses depends on what is stored,
and what it answers is stored in turn.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from ..cancel import Cancel
from ..core.fold import Completion
from ..core.request import CompletionRequest
from ..dialects import fields, responses
from ..dialects.stamp import Stamp
from ..errors import BadRequest, GatewayError, StoreUnavailable
from ..gateway import Caller
from ..store.responses import Stored
from .large import costs_much, parsed
from .observe import Record
from .stream import Answering

if TYPE_CHECKING:
    from .services import Services

ROOM = 256  # tokens left for the answer where the oldest messages may go to make room
log = logging.getLogger("slotproxy.responses")


class Conversation:
    """A dialect for one request."""

    def __init__(self, here: Services, environ: Mapping[str, Any]) -> None:
        self._here = here
        self._environ = environ
        self._begun = time.time()
        self.owner = ""
        self.cancel = Cancel()
        self._asked: responses.Asked | None = None
        self._read = 0  # bytes of kept responses

    def parse(self, body: Mapping[str, Any]) -> CompletionRequest:
        """Raises Invalid, BadRequest (the response it continues is not known)."""
        self.owner = self._here.keys.check(self._environ)
        searches = self._here.dialogues.searches
        earlier = self._earlier(body)
        # All that is kept is read here: a store waits for locks of the loop's, and parsing may be
        # done in a thread.
        find = self._named(body.get("input")).get
        parse = partial(responses.parse, body, earlier, searches, find)
        asked = parsed(parse, self._environ, self._read)
        self._asked = asked
        return asked.request

    def reply(
        self, stamp: Stamp, request: CompletionRequest, completions: Sequence[Completion]
    ) -> Any:
        whole = responses.whole(stamp, self._known, completions)
        self._keep(whole)
        return whole

    def Encoder(self, stamp: Stamp, request: CompletionRequest) -> responses.Encoder:
        return responses.Encoder(stamp, self._known, self._keep)

    def error(self, fault: GatewayError) -> dict[str, Any]:
        return responses.error(fault)

    def begin(self, request: CompletionRequest, cancel: Cancel, caller: Caller) -> Answering:
        """The answer, with the searches that it may make."""
        here = self._here
        self.cancel = cancel
        if self._known.store:
            here.ongoing.add(self)
        request = self.fitted(request, cancel)
        if not request.searches:
            return here.gateway.answer(request, cancel, caller)
        return here.dialogues.searching(request, self.owner, cancel, caller)

    def fitted(self, request: CompletionRequest, cancel: Cancel) -> CompletionRequest:
        """The request without its oldest messages, where they may go and the context of the model
        cannot hold them. Raises Cancelled, and what `Gateway.count` does."""
        if not self._known.shortens:
            return request
        room = min(request.max_tokens or ROOM, ROOM)
        return responses.shortened(
            request, lambda some: self._here.gateway.fits(some, room, cancel)
        )

    def in_background(self, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """Begin it, and answer at once, if that is asked."""
        if body.get("background") is not True:
            return None
        here = self._here
        request = self.parse(body)
        if not here.settings.stored_responses:
            raise BadRequest(
                "a response in the background needs to be stored, and --stored-responses is 0",
                param="background",
            )
        model = here.gateway.registry.resolve(request.model)[1]
        record = Record(self._environ)
        record.key, record.route = self.owner, record.path
        stamp = Stamp(
            f"resp_{uuid.uuid4().hex}", int(time.time()), model, "slotproxy", record.elapsed
        )
        caller = here.callers.caller(self.owner, self._environ)
        self.cancel = cancel = Cancel()
        here.ongoing.add(self)

        def answering() -> Answering:
            return self.begin(request, cancel, caller)

        return here.jobs.begin(
            self.owner, stamp, self._known, record, cancel, answering, self._begun
        )

    @property
    def _known(self) -> responses.Asked:
        assert self._asked is not None, "it was parsed first"
        return self._asked

    def _earlier(self, body: Mapping[str, Any]) -> tuple[Any, ...]:
        previous = fields.text(body, "previous_response_id")
        if not previous:
            return ()
        kept = self._here.store.get(self.owner, previous)
        if kept is None:
            raise BadRequest(
                f"there is no response {previous[:100]!r}",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        output, items = self._decoded(kept, "previous_response_id")
        return (*items, *output)

    def _named(self, given: Any) -> dict[str, Any]:
        """The items that the input only names, by their ids: items of kept responses, or of what
        these were asked. Each response is read once."""
        found: dict[str, Any] = {}
        known: set[str] = set()
        for item in given if type(given) is list else ():
            named = item.get("id") if type(item) is dict else None
            if type(named) is not str or item.get("type") != "item_reference":
                continue
            key = responses.response_id(named)
            if key in known:
                continue
            known.add(key)
            kept = self._here.store.get(self.owner, key)
            if kept is None:
                return found  # the request is refused for this one
            output, items = self._decoded(kept, "input")
            for one in (*output, *responses.listed(items, key)):
                if "id" in one:
                    found.setdefault(one["id"], one)
        return found

    def _decoded(self, kept: Stored, param: str) -> tuple[list[Any], list[Any]]:
        """Output and input of a kept response. Raises BadRequest where all that this request names
        is more than a body may hold, or than can be decoded without others noticing."""
        self._read += len(kept.response) + len(kept.items)
        if (
            self._read > self._here.settings.max_body
            or costs_much(kept.response)
            or costs_much(kept.items)
        ):
            raise BadRequest(
                "what this request continues or names is too long: begin a new conversation",
                param=param,
                code="conversation_too_long",
            )
        output = msgspec.json.decode(kept.response)["output"]
        return output, msgspec.json.decode(kept.items)

    def _keep(self, response: dict[str, Any]) -> None:
        """An answer that was made reaches its client, whether it can be stored or not: its `store`
        says which."""
        asked = self._known
        if not asked.store:
            return
        value = Stored(msgspec.json.encode(response), msgspec.json.encode(asked.input))
        try:
            self._here.store.put(
                self.owner, response["id"], response["created_at"], value, self._begun
            )
        except StoreUnavailable as fault:
            log.error("response %s could not be stored: %s", response["id"], fault.detail)
            response["store"] = False
