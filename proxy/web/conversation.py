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
from .large import parsed
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

    def parse(self, body: Mapping[str, Any]) -> CompletionRequest:
        """Raises Invalid, BadRequest (the response it continues is not known)."""
        self.owner = self._here.keys.check(self._environ)
        searches = self._here.dialogues.searches
        parse = partial(responses.parse, body, self._earlier(body), searches, self._item)
        # Items that are only named are read from a store, which waits for locks of the loop's.
        given = body.get("input")
        named = type(given) is list and any(
            type(item) is dict and item.get("type") == "item_reference" for item in given
        )
        asked = parse() if named else parsed(parse, self._environ)
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
        output = msgspec.json.decode(kept.response)["output"]
        return (*msgspec.json.decode(kept.items), *output)

    def _item(self, item: str) -> Any:
        """An item of a kept response, or of what it was asked; None for every other id."""
        key = responses.response_id(item)
        kept = self._here.store.get(self.owner, key)
        if kept is None:
            return None
        known = msgspec.json.decode(kept.response)["output"]
        known += responses.listed(msgspec.json.decode(kept.items), key)
        return next((one for one in known if one.get("id") == item), None)

    def _keep(self, response: Mapping[str, Any]) -> None:
        """An answer that was made reaches its client, whether it can be stored or not."""
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
