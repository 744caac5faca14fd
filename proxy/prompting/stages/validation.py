"""The stage that validates a complete answer and turns an invalid one into an error."""

from __future__ import annotations

from string import ascii_letters
from typing import Protocol

from ...core.events import Batch, Failed, Finished, TextDelta, ToolCallDelta
from ...errors import UpstreamFault

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
