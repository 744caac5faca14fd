"""The stage that judges a whole answer: fail closed."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import msgspec

from ..core.events import Batch, Failed, Finished, TextDelta, ToolCallDelta
from ..core.request import CompletionRequest
from ..errors import UpstreamFault
from .bind import document_schema
from .grammar import NEW, Grammar, check, matches

if TYPE_CHECKING:
    from . import validation


class InvalidOutput(UpstreamFault):
    """The model's answer is not the JSON that was asked for."""

    code = "invalid_output"


class Judge(Protocol):
    def fault(self, text: str) -> str:
        """What is wrong with a whole text; "" for nothing."""


class ByGrammar(msgspec.Struct, frozen=True):
    """Judges by a client's own grammar."""

    grammar: Grammar

    def fault(self, text: str) -> str:
        return "" if matches(self.grammar, text) else "it is not in the language of the grammar"


@lru_cache(maxsize=256)
def by_schema(schema: bytes) -> validation.Judge:
    """The judge of a schema's JSON text, made once. Raises Invalid."""
    from .validation import Judge  # late: jsonschema takes as long to import as all of Flask

    return Judge(msgspec.json.decode(schema))


@lru_cache(maxsize=256)
def _by_grammar(text: str) -> ByGrammar:
    return ByGrammar(check(text, NEW))


def judged(request: CompletionRequest) -> Judge | None:
    """The judge of a request's answer; None where any text will do. Raises Invalid."""
    schema = document_schema(request)
    if schema is not None:
        return by_schema(msgspec.json.encode(schema))
    grammar = request.sampling.get("grammar")
    return _by_grammar(grammar) if grammar else None


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
