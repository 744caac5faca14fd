"""A completion ready to be placed: the prompt as text, and everything checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from .request import CompletionRequest


class Task(Struct, frozen=True, kw_only=True):
    """What a driver gets.

    `prompt` is text or token ids. `boundaries` are the offsets in the text where a message ends,
    ascending: where a cached prefix may end. `stop` holds the template's own end marks, for the
    backend; `cut` the stop strings that are matched by us. `sampling` is as `core.sampling` checked
    it. `suffix` not None asks for an infill. `max_tokens` None means what is left of the context.
    `tool_form` names the form in which the model writes calls of tools; "" where it has none to
    call. `thinks`: the model may write thoughts before its answer. `native`: the backend gets the
    request's messages and makes the prompt itself. `media`: the kinds of what in its messages is no
    text. `foreign`: the chat template is of no family that we know, a backend that can make the
    prompt itself had better do so. `request` is what it came from.
    """

    prompt: str | tuple[int, ...]
    boundaries: tuple[int, ...] = ()
    suffix: str | None = None
    sampling: Mapping[str, Any] = {}
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()
    logprobs: int | None = None
    session: str = ""
    tool_form: str = ""
    thinks: bool = False
    native: bool = False
    media: frozenset[str] = frozenset()
    foreign: bool = False
    request: CompletionRequest = CompletionRequest()

    @property
    def free(self) -> bool:
        """Whether nothing binds the answer: no tools, no document and no grammar."""
        bound = self.tool_form or self.request.output.kind != "text"
        return not (bound or self.sampling.get("grammar"))
