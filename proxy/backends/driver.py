"""What every backend offers, whatever it speaks: the seam between the gateway and the drivers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from msgspec import Struct

from ..cancel import Cancel
from ..core.events import Batch
from ..core.task import Task
from ..core.usage import Usage


class Capabilities(Struct, frozen=True, kw_only=True):
    """What a probe found; published by GET /v1/backends.

    `dialect` names the generation. `slots` 0 means that their number is unknown. `n_ctx` is the
    context of one slot in tokens, 0 unknown. `queues`: it queues by itself when its slots are busy.
    `truncates`: it cuts a prompt beyond the context silently. `doubles`: where its cache holds a
    whole prompt, it evaluates the last token once more and keeps both. `honours_seed`,
    `logprobs_whole`, `infill` …: what it can do. `slot_save`: what a slot holds can be saved in a
    file, restored and erased; `ram_cache`: it keeps old prompts in RAM by itself. `native`: it
    takes the messages of a chat and makes the prompt itself. `lacks`: the sampler fields, by the
    names of core.sampling, that it does not know. `n_vocab`: how many token ids its model has, 0
    where it does not tell. `settings`: what it samples by where a request says nothing, under its
    own names. `metrics`: it counts at GET /metrics. `provisional`: the model was never loaded, so
    its slots, context and template are not known yet.
    """

    dialect: str
    slot_field: str = "slot_id"
    slots: int = 0
    n_ctx: int = 0
    n_vocab: int = 0
    queues: bool = False
    truncates: bool = True
    doubles: bool = False
    honours_seed: bool = False
    infill: bool = False
    chat: bool = False
    json_schema: bool = False
    tokenize: bool = True
    progress: bool = False
    modern_sampling: bool = False
    slot_save: bool = False
    ram_cache: bool = False
    native: bool = False
    embeddings: bool = False
    vision: bool = False
    audio: bool = False
    lacks: frozenset[str] = frozenset()
    settings: Mapping[str, Any] = {}
    metrics: bool = False
    template: str = ""
    bos_token: str = ""
    adds_bos: bool = True
    eos_token: str = ""
    models: tuple[str, ...] = ()
    build: str = ""
    provisional: bool = False


Learned = Callable[[Capabilities], None]


def ignore(caps: Capabilities) -> None:
    """For callers that only want the whole result of a probe."""


class Run(Protocol):
    """One completion under way, as `Driver.stream` gives it."""

    @property
    def slot(self) -> int:
        """The slot it runs on, -1 while the backend has not said which."""

    def __iter__(self) -> Iterator[Batch]:
        """Batches of events; an empty one is a tick of silence. Errors are raised, not yielded."""

    def usage(self) -> Usage:
        """The tokens counted so far; `prompt` 0 while the backend has not told."""

    def close(self) -> None:
        """Let the slot go. Safe to call again."""


class Driver(Protocol):
    """Speaks to one backend. Every method raises only errors of `proxy.errors`."""

    def probe(self, deadline: float, learned: Learned = ignore) -> Capabilities:
        """Ask the server what it is, and for one token within `deadline` seconds. `learned` gets
        what is known before that token comes.

        Raises BackendDown, UpstreamFault, UpstreamTimeout."""

    def alive(self) -> bool:
        """Whether it answers at all: a cheap question that touches no slot."""

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> Run:
        """Begin one completion on `slot` (-1: any). `task.max_tokens` is finite."""

    def tokenize(self, text: str, special: bool = False, cancel: Cancel | None = None) -> list[int]:
        """Token ids; with `special` also the ones that a prompt begins with (BOS)."""

    def detokenize(self, tokens: list[int]) -> str:
        """The text of token ids. Raises CharacterCut where the server writes no part of a
        character."""

    def close(self) -> None:
        """Give up idle connections."""


@runtime_checkable
class CountsSlots(Protocol):
    """A driver that can find out how many slots a server has that does not say so."""

    def count_slots(self) -> tuple[int, bool]:
        """How many slots there are, 0 where that cannot be found out; and whether all were idle:
        if not, somebody else uses the server, and there may be more. What the slots hold stays as
        it is."""


SlotAction = Literal["save", "restore", "erase"]


@runtime_checkable
class KeepsSlots(Protocol):
    """A driver whose server can save what a slot holds."""

    def slot_action(self, action: SlotAction, slot: int, file: str) -> tuple[int, int]:
        """Save a slot to, or restore it from, a file of this name on the server, or erase it.
        (tokens, bytes) that were moved."""


@runtime_checkable
class Counts(Protocol):
    """A driver whose backend may have `metrics`."""

    def counters(self) -> dict[str, float]:
        """What the backend has counted, by llama-server's names (n_decode_total …)."""


@runtime_checkable
class TellsPieces(Protocol):
    """A driver whose backend may know the bytes of each token."""

    def pieces(self, text: str, special: bool) -> list[tuple[int, bytes]] | None:
        """The tokens of a text with their bytes; None where the backend cannot tell."""


@runtime_checkable
class MakesPrompts(Protocol):
    """A driver whose backend is `native`."""

    def prompt_ids(self, task: Task) -> list[int]:
        """The token ids of the prompt that it makes of a task."""


@runtime_checkable
class LoadsModel(Protocol):
    """A driver whose server loads the model when a request asks for it, and may unload it."""

    @property
    def status(self) -> str:
        """unloaded, loading, loaded, sleeping or failed."""

    @property
    def trouble(self) -> str:
        """Why the last load failed, "" where it did not."""

    @property
    def awaits(self) -> float:
        """Seconds that a request is thought to wait for the model, 0 when it is loaded."""

    def refresh(self) -> tuple[Capabilities, bool]:
        """What is known of the model, and whether its slots lost what they held since this was
        asked last. Loads and wakes nothing."""

    def load(self, cancel: Cancel) -> Iterator[None]:
        """Wait until what `refresh` tells is not provisional any more, loading the model if need
        be; yields at every tick."""

    def loading(self) -> str:
        """What to tell a request that waits for the model; "" when it is loaded."""
