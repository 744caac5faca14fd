"""What a dialogue is asked, and what happens in it.

    Sources? (Step | Sources | Reasoning | Text | Tick)* Done

Errors are raised. What an agent's search finds comes as Sources of its own; numbers go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from ..core.events import FinishReason
from ..core.request import Message
from ..core.usage import Timings, Usage
from ..gateway import Info

Kind = Literal["chat", "knowledge", "search", "agent"]
FOLDERS: Mapping[Kind, str] = {
    "chat": "llm_chat",
    "knowledge": "knowledge_base_chat",
    "search": "search_engine_chat",
    "agent": "agent_chat",
}
"""The folder of templates/dialogues that holds a kind's prompt templates."""


class Bounds(Struct, frozen=True):
    """How far an agent may go: rounds of the model, seconds in all, tokens written in all, and
    seconds for one tool. At the end of its rounds it must answer with what it has."""

    rounds: int = 6
    seconds: float = 120.0
    tokens: int = 4096
    tool_seconds: float = 30.0


class DialogueRequest(Struct, frozen=True, kw_only=True):
    """One turn of a dialogue. The last of `messages` is the question, a user's.

    `sampling` holds names and types checked by `core.sampling`. `template` is a name in the kind's
    folder of templates/dialogues. `bases` are ids or names of the owner's knowledge bases, `files`
    ids of documents to look in alone; `top_k` and `score_threshold` (0 to 1, larger is nearer) as
    `Knowledge.search` takes them; for a search `top_k` is how many results. `engine` "" is the
    first that is set up; `split`: pages are read and the passages that fit are taken of them.
    `tools` are the names an agent may use, None for all that the settings allow. `owner` is the
    caller's, as the stores have it. `session` keeps a conversation where its cache is.
    `bounds` None: those of the settings."""

    kind: Kind
    messages: tuple[Message, ...]
    model: str = ""
    sampling: Mapping[str, Any] = {}
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    template: str = "default"
    bases: tuple[str, ...] = ()
    files: tuple[str, ...] | None = None
    top_k: int = 3
    score_threshold: float | None = None
    engine: str = ""
    split: bool = False
    tools: tuple[str, ...] | None = None
    owner: str = ""
    session: str = ""
    bounds: Bounds | None = None


class Citation(Struct, frozen=True):
    """What an answer rests on. `number` is the one the text names in brackets, [1]. A document of
    a knowledge base has ids and a `place` in human words; a result of a search has a `url`. `text`
    is what the model was shown."""

    number: int
    title: str
    text: str
    place: str = ""
    url: str = ""
    base_id: str = ""
    document_id: str = ""
    chunk_id: str = ""
    score: float = 0.0


class Sources(Struct, frozen=True):
    """What was found for this turn, before the text that cites it. Empty: nothing was found, the
    answer is the model's own."""

    citations: tuple[Citation, ...]


class Step(Struct, frozen=True):
    """A step of an agent: a `thought` in `text`; a `tool` with its `name` and `arguments` (JSON
    text), about to run; the `observation` it made, in `text`."""

    kind: Literal["thought", "tool", "observation"]
    name: str = ""
    arguments: str = ""
    text: str = ""


class Text(Struct, frozen=True):
    """A piece of the answer."""

    delta: str


class Reasoning(Struct, frozen=True):
    """A piece of what the model thinks, apart from its answer."""

    delta: str


class Tick(Struct, frozen=True):
    """Nothing happened for a while: a stream may say that it is alive, or pass over it."""


class Done(Struct, frozen=True):
    """The answer is whole, or was cut by a limit. `usage` is of all rounds together, `timings` of
    the last."""

    usage: Usage
    timings: Timings
    finish_reason: FinishReason


DialogueEvent = Sources | Step | Text | Reasoning | Tick | Done


def add(info: Info, round: Info) -> None:
    """Add what one completion was to what is told of the dialogue."""
    info.model, info.backend, info.slot = round.model, round.backend, round.slot
    info.queue_wait += round.queue_wait
    info.first_place = info.first_place or round.first_place
    info.placed = info.placed or round.placed
    info.first_token = info.first_token or round.first_token
    info.last_token += round.last_token
    info.continued += round.continued
    info.usage += round.usage
    info.warnings = tuple(dict.fromkeys((*info.warnings, *round.warnings)))
