"""Requests and events of dialogues.

    Sources? (DialogueStep | Sources | ReasoningDelta | TextDelta | Tick)* Finished

Errors are raised. Each search of an agent adds Sources of its own, numbered consecutively. Finished
has the usage of all rounds, and the timings of the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from ..core.events import Citation, Finished, ReasoningDelta, TextDelta
from ..core.request import Message
from ..gateway import Info

Kind = Literal["chat", "knowledge", "search", "agent"]
FOLDERS: Mapping[Kind, str] = {
    "chat": "llm_chat",
    "knowledge": "knowledge_base_chat",
    "search": "search_engine_chat",
    "agent": "agent_chat",
}
"""The folder of each kind's prompt templates in templates/dialogues."""


class DialogueRequest(Struct, frozen=True, kw_only=True):
    """One turn of a dialogue. The last of `messages` is the question, a user message.

    `sampling` holds fields checked by `core.sampling`. `template` is a name in the kind's folder of
    templates/dialogues. `bases` are ids or names of the owner's knowledge bases. `top_k` and
    `score_threshold` (0 to 1, higher is nearer) are those of `Knowledge.search`; for a web search
    `top_k` is the number of results. `engine` "" is the first one configured. `owner` is the
    caller's name in the stores. `session` keeps a conversation on the slot that has its cache.
    `begun` is the beginning of the answer, which the model continues (only `chat`)."""

    kind: Kind
    messages: tuple[Message, ...]
    model: str = ""
    sampling: Mapping[str, Any] = {}
    max_tokens: int | None = None
    template: str = "default"
    bases: tuple[str, ...] = ()
    top_k: int = 3
    score_threshold: float | None = None
    engine: str = ""
    owner: str = ""
    session: str = ""
    begun: str = ""


class Sources(Struct, frozen=True):
    """The sources found for this turn, sent before the text that cites them. If empty, nothing was
    found and the answer comes from the model alone."""

    citations: tuple[Citation, ...]


class DialogueStep(Struct, frozen=True):
    """A step of an agent: a `thought` in `text`, a `tool` about to run with `name` and `arguments`
    (JSON text), or the tool's `observation` in `text`."""

    kind: Literal["thought", "tool", "observation"]
    name: str = ""
    arguments: str = ""
    text: str = ""


class Tick(Struct, frozen=True):
    """Nothing happened for a while; a stream may send a heartbeat or ignore it."""


DialogueEvent = Sources | DialogueStep | TextDelta | ReasoningDelta | Tick | Finished


def add(info: Info, completion: Info) -> None:
    """Adds a completion's statistics to those of the dialogue, of which it is a step."""
    info.model, info.backend, info.slot = completion.model, completion.backend, completion.slot
    info.queue_wait += completion.queue_wait
    info.first_place = info.first_place or completion.first_place
    info.placed = info.placed or completion.placed
    info.first_token = info.first_token or completion.first_token
    info.last_token += completion.last_token
    info.evaluating += completion.evaluating
    info.writing += completion.writing
    info.slot_seconds += completion.slot_seconds
    info.longest = max(info.longest, completion.longest)
    info.continued += completion.continued
    info.usage += completion.usage
    if next((part for part in info.steps if isinstance(part, Info)), None) is not completion:
        completion.task = None  # only the first prompt is explained
    info.warnings = tuple(dict.fromkeys((*info.warnings, *completion.warnings)))
