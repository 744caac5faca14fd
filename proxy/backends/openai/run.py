"""A completion stream of a server that speaks OpenAI's API.

The server's own parsers and grammars are trusted for nothing: an answer without the call that the
client requires is an error, and a document is validated behind this run, as on any backend without
our grammars.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from ...core.events import (
    Batch,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from ...core.task import Task
from ...errors import GatewayError
from ...prompting.constraints import callable_tools, must_call
from ...prompting.stages.prompted_output import describe_constraints
from ...prompting.stages.validation import InvalidOutput
from ...wire import openai_stream
from ..driver import Capabilities
from ..http import Exchange
from ..relay import RelayRun
from .details import pause_of, refused

LONGEST_ANSWER = 1 << 18  # tokens of an answer for which the client set no limit
CHARACTERS = 4  # of a token, where the server reports none
_WRITTEN = (TextDelta, ReasoningDelta, ToolCallDelta)


class OpenAIRun(RelayRun):
    """A completion under way. `explain` asks the server why its answer has no event; `formats` are
    those of `core.request` that it was asked for. Until the
    server reports its tokens, and if it never does, each piece of the answer counts as one, and
    the prompt by its characters."""

    def __init__(
        self,
        exchange: Exchange,
        task: Task,
        caps: Capabilities,
        timeout: float,
        tick: float,
        secret: str = "",
        *,
        explain: Callable[[], GatewayError],
        formats: frozenset[str] = frozenset(),
    ) -> None:
        if task.request.max_tokens is None:
            task = msgspec.structs.replace(task, max_tokens=LONGEST_ANSWER)
        super().__init__(exchange, task, caps, timeout, tick, -1, secret)
        request = task.request
        self._called: set[int] = set()  # the calls that have a name, by index
        # In an answer whose form is described, calls are text.
        self._must_call = request.is_chat and must_call(request) and task.call_format is None
        self._formats = formats
        self._callable = {tool.name for tool in callable_tools(request)}
        self._explain = explain
        self.prompt_tokens = _estimate(task, caps.by_prompt)

    def _empty(self) -> GatewayError:
        return self._explain()

    def _refused(self, status: int, data: bytes) -> GatewayError:
        error = refused(status, data, self._secret, self._formats)
        if status == 429:
            error.retry_after = pause_of(self._exchange.headers, time.time())
        return error

    def _plain(self, payloads: list[bytes], batch: Batch) -> bool:
        """Text that came together is one delta, as on llama.cpp's servers."""
        if self._single:
            return super()._plain(payloads, batch)
        texts: list[str] = []
        for payload in payloads:
            text = openai_stream.plain_text(payload) if self.begun else None
            if text is not None:
                texts.append(text)
            elif self._joined(texts, batch) or self._event(payload, batch):
                return True
        return self._joined(texts, batch)

    def _joined(self, texts: list[str], batch: Batch) -> bool:
        """Add these texts to the batch as one, and remove them. True if the run is cut."""
        if not texts:
            return False
        text, pieces = "".join(texts), len(texts) - texts.count("")
        self._left -= len(texts)
        texts.clear()
        if not self.reported:
            self.pieces += pieces
        if text:
            self._check_length(len(text))
            batch.append(TextDelta(text, (), pieces))
        return self._is_too_long() and self._ended(batch)

    def _part(self, part: openai_stream.ChatChunk, batch: Batch) -> bool:
        before = len(batch)
        over = super()._part(part, batch)
        if not self.reported:
            self.pieces += len([e for e in batch[before:] if type(e) in _WRITTEN])
        for event in batch[before:]:
            if isinstance(event, ToolCallDelta) and event.index not in self._called:
                if event.name not in self._callable:
                    raise InvalidOutput("the model called a function that it may not call")
                self._called.add(event.index)
        return over

    def _end(self, reason: FinishReason) -> Finished:
        if self._must_call and not self._called and reason != "length":
            raise InvalidOutput("the model did not call a function, as tool_choice requires")
        return super()._end("tool_calls" if self._called and reason == "stop" else reason)


def _estimate(task: Task, by_prompt: frozenset[str]) -> int:
    """The number of tokens in the prompt, by its characters."""
    if not isinstance(task.prompt, str):
        return len(task.prompt)
    messages = sum(message.characters for message in task.request.messages)
    if task.described:
        messages += len(describe_constraints(task.request, by_prompt))
    return (messages or len(task.prompt)) // CHARACTERS + 1
