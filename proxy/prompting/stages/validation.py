"""The stage that validates a complete answer and turns an invalid one into an error."""

from __future__ import annotations

from typing import Protocol

from ...core.events import Batch, Failed, Finished, TextDelta, ToolCallDelta
from ...errors import UpstreamFault


class InvalidOutput(UpstreamFault):
    """The model's output does not match the requested JSON format."""

    code = "invalid_output"


class Validator(Protocol):
    def fault(self, text: str) -> str:
        """The error in a complete text; "" if there is none."""


class ValidationStage:
    """Replaces an invalid answer's end by a failure.

    Answers that were cut off, that call tools, or that ended at a stop string in `pardon` (the
    client's own) are not validated."""

    ended = False

    def __init__(self, judge: Validator, pardon: tuple[str, ...] = ()) -> None:
        self._pardon = pardon
        self._judge = judge
        self._text: list[str] = []
        self._calls = False

    def feed(self, batch: Batch) -> Batch:
        for at, event in enumerate(batch):
            if isinstance(event, TextDelta):
                self._text.append(event.text)
            elif isinstance(event, ToolCallDelta):
                self._calls = True
            elif isinstance(event, Finished) and self._is_whole(event):
                fault = self._judge.fault("".join(self._text))
                if fault:
                    message = f"the model's output failed validation: {fault}"
                    return [*batch[:at], Failed(InvalidOutput(message))]
        return batch

    def _is_whole(self, finished: Finished) -> bool:
        pardoned = finished.stop_sequence in self._pardon
        return finished.reason == "stop" and not pardoned and not self._calls
