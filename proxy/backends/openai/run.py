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
from ...prompting.described import guide
from ...prompting.output_validation import InvalidOutput
from ...wire import openai_stream
from ...wire.lenient import WireFault
from ..driver import Capabilities
from ..http import Exchange
from ..relay import RelayRun
from .refusals import pause_of, refused

LONGEST_ANSWER = 1 << 18  # tokens of an answer for which the client set no limit
CHARACTERS = 4  # of a token, where the server reports none
_WRITTEN = (TextDelta, ReasoningDelta, ToolCallDelta)


class OpenAIRun(RelayRun):
    """A completion under way. `explain` asks the server why its answer has no event; `formats` are
    those of `core.formats` that it was asked for. Until the
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
        self._called = False
        # In an answer whose form is described, calls are text.
        self._must_call = request.is_chat and must_call(request) and not task.tool_form
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
        if self._single or not self.begun:
            return super()._plain(payloads, batch)
        if len(payloads) == 1:
            return self._event(payloads[0], batch)
        ends = payloads[-1] == openai_stream.DONE
        try:
            parts = openai_stream.chunks(payloads[:-1] if ends else payloads)
        except WireFault:  # one chunk has another form: read them one by one
            return super()._plain(payloads, batch)
        texts: list[str] = []
        for part in parts:
            text = openai_stream.plain_text(part)
            if text is not None:
                texts.append(text)
            elif self._joined(texts, batch) or self._part(part, batch):
                return True
        if self._joined(texts, batch):
            return True
        return ends and self._event(openai_stream.DONE, batch)

    def _joined(self, texts: list[str], batch: Batch) -> bool:
        """Add these texts to the batch as one, and remove them. True if the run is cut."""
        if not texts:
            return False
        chunks, pieces, text = len(texts), sum(map(bool, texts)), "".join(texts)
        texts.clear()
        return self._text_came(text, chunks, pieces, batch)

    def _text_came(self, text: str, chunks: int, pieces: int, batch: Batch) -> bool:
        """Add the text of so many chunks, of which `pieces` are not empty. True if the run is
        cut."""
        self._left -= chunks
        if not self.reported:
            self.pieces += pieces
        if text:
            self._check_length(len(text))
            batch.append(TextDelta(text, (), pieces))
        return self._is_too_long() and self._ended(batch)

    def _part(self, part: openai_stream.ChatChunk, batch: Batch) -> bool:
        if self.begun and not self._single:
            text = openai_stream.plain_text(part)
            if text is not None:
                return self._text_came(text, 1, 1 if text else 0, batch)
        before = len(batch)
        over = super()._part(part, batch)
        if not self.reported:
            self.pieces += len([e for e in batch[before:] if type(e) in _WRITTEN])
        for event in batch[before:]:
            if isinstance(event, ToolCallDelta) and event.name:
                if event.name not in self._callable:
                    raise InvalidOutput("the model called a function that it may not call")
                self._called = True
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
        messages += len(guide(task.request, by_prompt))
    return (messages or len(task.prompt)) // CHARACTERS + 1
