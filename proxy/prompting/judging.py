"""The stage that judges a whole answer: fail closed."""

from __future__ import annotations

from typing import Protocol

from ..core.events import Batch, Failed, Finished, TextDelta, ToolCallDelta
from ..errors import UpstreamFault


class InvalidOutput(UpstreamFault):
    """The model's answer is not the JSON that was asked for."""

    code = "invalid_output"


class Judge(Protocol):
    def fault(self, text: str) -> str:
        """What is wrong with a whole text; "" for nothing."""


class JudgeStage:
    """An answer that ended by itself must be what was asked for, or becomes a failure; one that was
    cut by a limit says so already, one that calls tools is no document, and one that ended at one
    of the stop strings in `pardon` was ended by the client."""

    ended = False

    def __init__(self, judge: Judge, pardon: tuple[str, ...] = ()) -> None:
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
                    message = f"the model's answer is not what was asked for: {fault}"
                    return [*batch[:at], Failed(InvalidOutput(message))]
        return batch

    def _is_whole(self, finished: Finished) -> bool:
        pardoned = finished.stop_sequence in self._pardon
        return finished.reason == "stop" and not pardoned and not self._calls
