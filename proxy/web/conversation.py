"""One request for a Response: what it continues, and what is kept of it.

It is handed to the spine as a dialect of its own, since what it parses depends on what is stored,
and what it answers is stored in turn.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ..cancel import Cancel
from ..core.fold import Completion, fold
from ..core.request import CompletionRequest
from ..dialects import fields, responses
from ..dialects.responses import answer
from ..dialects.stamp import Stamp
from ..errors import BadRequest, Cancelled, GatewayError, QueueFull
from ..gateway import Caller
from ..store.responses import Stored
from .observe import Record
from .stream import Answering

if TYPE_CHECKING:
    from .services import Services

MOST_JOBS = 64
ROOM = 256  # tokens left for the answer where the oldest messages may go to make room


class Jobs:
    """Responses that are made in the background, by owner and id."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[tuple[str, str], Cancel] = {}

    def begin(self, owner: str, key: str) -> Cancel:
        """Raises QueueFull."""
        with self._lock:
            if len(self._running) >= MOST_JOBS:
                raise QueueFull("too many responses are made in the background", retry_after=5.0)
            cancel = self._running[owner, key] = Cancel()
        return cancel

    def end(self, owner: str, key: str) -> None:
        with self._lock:
            self._running.pop((owner, key), None)

    def cancel(self, owner: str, key: str) -> bool:
        """Whether it was still being made."""
        with self._lock:
            cancel = self._running.pop((owner, key), None)
        if cancel is None:
            return False
        cancel.cancel()
        return True


class Conversation:
    """A dialect for one request."""

    def __init__(self, here: Services, environ: Mapping[str, Any]) -> None:
        self._here = here
        self._environ = environ
        self._owner = ""
        self._asked: responses.Asked | None = None

    def parse(self, body: Mapping[str, Any]) -> CompletionRequest:
        """Raises Invalid, BadRequest (the response it continues is not known)."""
        self._owner = self._here.keys.check(self._environ)
        searches = self._here.dialogues.searches
        asked = responses.parse(body, self._earlier(body), searches, self._item)
        if asked.shortens:
            request = responses.shortened(asked.request, self._fits)
            asked = msgspec.structs.replace(asked, request=request)
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
        if not request.searches:
            return here.gateway.answer(request, cancel, caller)
        return here.dialogues.searching(request, self._owner, cancel, caller)

    def in_background(self, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """Begin it, and answer at once, if that is asked."""
        if body.get("background") is not True:
            return None
        here = self._here
        request = self.parse(body)
        model = here.gateway.registry.resolve(request.model)[1]
        record = Record(self._environ)
        record.key = self._owner
        stamp = Stamp(
            f"resp_{uuid.uuid4().hex}", int(time.time()), model, "slotproxy", record.elapsed
        )
        caller = here.callers.caller(self._owner, self._environ)
        cancel = here.jobs.begin(self._owner, stamp.id)
        queued = responses.response(stamp, self._known, "queued")
        self._keep(queued)

        def work() -> None:
            here.observer.begin(record)
            running = None
            try:
                running = self.begin(request, cancel, caller)
                record.info = running.info
                done = responses.whole(stamp, self._known, fold(running))
                record.status = 200
            except Cancelled:
                return
            except GatewayError as fault:
                record.status = fault.status
                done = answer.failed(stamp, self._known, (), fault)
            finally:
                if running is not None:
                    running.close()
                here.observer.end(record)
                if not cancel.cancelled:
                    here.jobs.end(self._owner, stamp.id)
            if not cancel.cancelled:
                self._keep(done)

        threading.Thread(target=work, name="response", daemon=True).start()
        return queued

    @property
    def _known(self) -> responses.Asked:
        assert self._asked is not None, "it was parsed first"
        return self._asked

    def _earlier(self, body: Mapping[str, Any]) -> tuple[Any, ...]:
        previous = fields.text(body, "previous_response_id")
        if not previous:
            return ()
        kept = self._here.store.get(self._owner, previous)
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
        kept = self._here.store.get(self._owner, key)
        if kept is None:
            return None
        known = msgspec.json.decode(kept.response)["output"]
        known += responses.listed(msgspec.json.decode(kept.items), key)
        return next((one for one in known if one.get("id") == item), None)

    def _fits(self, request: CompletionRequest) -> bool:
        return self._here.gateway.fits(request, min(request.max_tokens or ROOM, ROOM))

    def _keep(self, response: Mapping[str, Any]) -> None:
        asked = self._known
        if asked.store:
            value = Stored(msgspec.json.encode(response), msgspec.json.encode(asked.input))
            self._here.store.put(self._owner, response["id"], response["created_at"], value)
