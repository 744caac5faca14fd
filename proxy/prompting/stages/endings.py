"""Stages between a driver and an encoder; each maps a batch of events to a batch.

A stage may hold text back until the terminal event. One that ends the answer itself (at a stop
string) emits its own Finished and sets `ended`. These two decide how an answer ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import ascii_letters
from typing import Protocol

from ...core.events import Batch, Failed, Finished, TextDelta, ToolCallDelta
from ...core.usage import Usage
from ...errors import UpstreamFault
from ..formats.scanner import overlap


class Stage(Protocol):
    ended: bool

    def feed(self, batch: Batch) -> Batch:
        """The events to pass on now, in order."""


class StopStage:
    """Ends the answer at the first stop string of the client, which is not sent. Only the text of
    the answer is searched, not reasoning or the arguments of calls.

    The backend cannot do this: server.cpp loses text if one token contains both text and the start
    of a stop string, and loses text held back when the token limit is reached."""

    def __init__(self, stops: Sequence[str], usage: Callable[[], Usage]) -> None:
        self._stops = tuple(s for s in stops if s)
        self._heads = frozenset(s[0] for s in self._stops)
        self._held = ""
        self._usage = usage
        self.ended = False

    def feed(self, batch: Batch) -> Batch:
        out: Batch = []
        for event in batch:
            if isinstance(event, TextDelta):
                if not self._held and self._heads.isdisjoint(event.text):
                    out.append(event)
                    continue
                text = self._held + event.text
                places = ((text.find(stop), len(stop), stop) for stop in self._stops)
                at, _, stop = min((place for place in places if place[0] >= 0), default=(0, 0, ""))
                keep = at if stop else len(text) - overlap(text, self._stops)
                text, self._held = text[:keep], text[keep:]
                if text or event.logprobs:
                    out.append(TextDelta(text, event.logprobs))
                if stop:
                    self.ended = True
                    end = Finished(reason="stop", usage=self._usage(), stop_sequence=stop)
                    return [*out, end]
            else:
                if self._held and isinstance(event, (Finished, Failed, ToolCallDelta)):
                    out.append(TextDelta(self._held))
                    self._held = ""
                out.append(event)
        return out


_FENCE = "```"


class InvalidOutput(UpstreamFault):
    code = "invalid_output"


class Validator(Protocol):
    def fault(self, text: str) -> str:
        """The error in a complete text; "" if there is none."""


class ValidationStage:
    """Replaces an invalid answer's end by a failure. With `holds`, the text is held back until
    then, and a code fence around a document is removed. Answers that were cut off, that call tools,
    or that ended at a stop string in `pardon` (the client's own) are not validated."""

    ended = False

    def __init__(
        self, validator: Validator, pardon: tuple[str, ...] = (), *, holds: bool = False
    ) -> None:
        self._pardon = pardon
        self._validator = validator
        self._holds = holds
        self._texts: list[TextDelta] = []
        self._calls = False

    def feed(self, batch: Batch) -> Batch:
        out: Batch = []
        for event in batch:
            if isinstance(event, TextDelta):
                self._texts.append(event)
                if self._holds:
                    continue
            elif isinstance(event, ToolCallDelta):
                self._calls = True
            elif isinstance(event, Finished):
                text = joined(self._texts)
                if self._holds:
                    text = _unfenced(text)
                pardoned = event.stop_sequence in self._pardon or self._calls
                is_whole = event.reason == "stop" and not pardoned
                if is_whole and (fault := self._validator.fault(text.text)):
                    message = f"the model's output failed validation: {fault}"
                    return [*out, Failed(InvalidOutput(message))]
                if self._holds and (text.text or text.logprobs):
                    out.append(text)
            out.append(event)
        return out


def joined(texts: list[TextDelta]) -> TextDelta:
    logprobs = tuple(token for event in texts for token in event.logprobs)
    return TextDelta("".join(event.text for event in texts), logprobs)


def _unfenced(delta: TextDelta) -> TextDelta:
    """The document within a code fence, or the text itself if there is none around it."""
    text = delta.text.strip()
    if len(text) < 2 * len(_FENCE) or not (text.startswith(_FENCE) and text.endswith(_FENCE)):
        return delta
    return TextDelta(text[len(_FENCE) : -len(_FENCE)].lstrip(ascii_letters).strip())
