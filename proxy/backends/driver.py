"""The driver interface: what the gateway needs from a backend, whatever its protocol."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from msgspec import Struct

from ..core.events import Batch
from ..core.task import CallMaker, Embedded, Forwarded, Ranked, Task
from ..core.usage import Usage
from ..errors import Unsupported
from ..runtime.cancel import Cancel
from ..wire.router import Listed

AT_ONCE = 32  # inputs in one call for embeddings

Input = str | tuple[int, ...]
SlotAction = Literal["save", "restore", "erase"]


class Capabilities(Struct, frozen=True, kw_only=True):
    """The result of a probe, published by GET /v1/backends.

    `dialect` names the server's generation. `slots` 0: their number is unknown;
    with `most_slots`, it is a first guess, and at most so many are learned. `n_ctx`: the
    context of one slot in tokens, 0 if unknown. `queues`: it queues requests while its slots are
    busy. `truncates`: it silently truncates prompts beyond the context. `doubles`: if its cache
    holds a whole prompt, it evaluates the last token again and keeps both. `honours_seed`,
    `infill` …: features it supports. `slot_save`: slots can be saved to files,
    restored and erased; `ram_cache`: it keeps old prompts in RAM. `native`: it accepts chat
    messages and renders the prompt itself. `lacks`: sampling fields it does not support, by their
    names in core.sampling. `by_prompt`: what it does not know of `core.request`, so that the
    messages describe it. `n_vocab`: size of the vocabulary, 0 if unknown. `settings`: its default
    sampling settings, under its own names. `metrics`: it has counters at GET /metrics.
    `template_from`: where its chat template comes from, the server or its model file.
    `provisional`: the model was never loaded, so its slots, context and template are unknown.
    """

    dialect: str
    slot_field: str = "slot_id"
    slots: int = 0
    most_slots: int = 0
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
    by_prompt: frozenset[str] = frozenset()
    settings: Mapping[str, Any] = {}
    metrics: bool = False
    template: str = ""
    template_from: Literal["server", "file"] = "server"
    bos_token: str = ""
    adds_bos: bool = True
    eos_token: str = ""
    models: tuple[str, ...] = ()
    build: str = ""
    provisional: bool = False


Learned = Callable[[Capabilities], None]


def ignore(caps: Capabilities) -> None:
    """The default for callers that only need the final result of a probe."""


class Run(Protocol):
    """A completion under way, as returned by `Driver.stream`."""

    @property
    def slot(self) -> int:
        """The slot it runs on, -1 while the backend has not reported it."""

    def __iter__(self) -> Iterator[Batch]:
        """Batches of events; an empty one is a tick of silence. Errors are raised, not yielded."""

    def usage(self) -> Usage:
        """Token counts so far. `prompt` is 0 until the backend reports it."""

    def close(self) -> None:
        """Stop the run and free its slot. Safe to call again."""


class ModelHost(Protocol):
    """An address with several models, each with a driver of its own. `up`: it answered last."""

    up: bool

    @property
    def models(self) -> Mapping[str, Listed]:
        """The models by name, as `look` last found them."""

    @property
    def lost(self) -> frozenset[str]:
        """The models whose slots lost their content, until the registry has handled it."""

    def look(self) -> Mapping[str, Listed] | None:
        """The models as they are now; None if the address has but one now. Raises BackendDown."""

    def model(self, name: str) -> Driver:
        """The driver of one of its models."""

    def forget(self, name: str) -> None:
        """Forget a model that is no longer listed. A later one of this name may be another."""

    def close(self) -> None:
        """Close idle connections."""


class Driver(ABC):
    """Talks to one backend. Every method raises only errors of `proxy.errors`.

    The methods after `close` are for features that not every backend has; their defaults are those
    of a backend without the feature."""

    @abstractmethod
    def probe(self, deadline: float, learned: Learned = ignore) -> Capabilities:
        """Find out what the server can do, and get one token within `deadline` seconds. `learned`
        is called with the capabilities known before that token comes.

        Raises BackendDown, UpstreamFault, UpstreamTimeout."""

    @abstractmethod
    def alive(self) -> bool:
        """Whether it responds: a cheap request that touches no slot."""

    @abstractmethod
    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> Run:
        """Start a completion on `slot` (-1: any). `task.max_tokens` must be finite."""

    @abstractmethod
    def tokenize(self, text: str, special: bool = False, cancel: Cancel | None = None) -> list[int]:
        """The token ids of a text; with `special`, including those that begin a prompt (BOS)."""

    @abstractmethod
    def detokenize(self, tokens: list[int]) -> str:
        """The text of token ids. Raises CharacterCut if the server cannot return an incomplete
        character."""

    @abstractmethod
    def close(self) -> None:
        """Close idle connections."""

    # for a server that takes prompts as text

    def in_parts(self, task: Task, cancel: Cancel | None = None) -> list[str | int]:
        """The text prompt of a task as it is sent, in texts and token ids: no token spans one of
        its breaks."""
        return [task.prompt] if isinstance(task.prompt, str) else list(task.prompt)

    # for a server that does not report its slots, or its vocabulary

    def queue(self) -> tuple[int, int] | None:
        """The number of requests that the server runs and queues; None if it does not report
        them."""
        return None

    def count_slots(self) -> tuple[int, bool]:
        """The number of slots (0 if it cannot be found out), and whether all were idle. If not,
        somebody else uses the server, and there may be more. What the slots hold is untouched."""
        return 0, False

    def parallel(self, slots: int) -> int:
        """How many of so many slots it can use at once. Called while nothing of ours runs there."""
        return slots

    def n_vocab(self) -> int | None:
        """The number of token ids, 0 if the backend does not reveal it; None if ids outside of the
        vocabulary do no harm. Leaves the slots' content. Raises BackendBusy if no slot is free."""
        return None

    # for a server with `slot_save`, with `metrics`, or that reports the bytes of each token

    def slot_action(
        self, action: SlotAction, slot: int, file: str, seconds: float | None = None
    ) -> tuple[int, int]:
        """Save a slot to a file of this name on the server, restore it from there, or erase it.
        Returns the number of tokens and bytes moved. Raises UpstreamTimeout after so many seconds,
        by default the longest silence."""
        raise Unsupported("this model's backend cannot save slots")

    def counters(self) -> dict[str, float]:
        """The backend's counters, by llama-server's names (n_decode_total …)."""
        return {}

    def pieces(self, text: str, special: bool) -> list[tuple[int, bytes]] | None:
        """The tokens of a text with their bytes, None if the backend does not report them."""
        return None

    # for a server that makes embeddings and rankings

    def parts(self, inputs: Sequence[Input]) -> list[Sequence[Input]]:
        """The inputs in parts for one call of `embed` each, if the server takes several at once."""
        return [inputs[i : i + AT_ONCE] for i in range(0, len(inputs), AT_ONCE)]

    def embed(self, inputs: Sequence[Input], caps: Capabilities, cancel: Cancel) -> Embedded:
        """Embed one of the `parts`, or a single input."""
        raise Unsupported("this model's backend does not support embeddings")

    def rerank(
        self, query: str, documents: Sequence[str], caps: Capabilities, cancel: Cancel
    ) -> Ranked:
        """Score the documents."""
        raise Unsupported("this model's backend does not support embeddings")

    # for a server that gets requests as clients sent them

    def forward(self, make: CallMaker, cancel: Cancel, key: str = "") -> Forwarded:
        """Forward a call, and wait for the head of its answer, which must be closed. `key` is the
        name of the API key that asks."""
        raise Unsupported("this model's backend does not support this API")

    # for a server that renders chats like us

    def server_prompt(self, task: Task) -> str | None:
        """The prompt that the server's own chat route makes of a chat; None if it refuses the chat.
        Takes no slot and loads no model. Raises Unsupported without such a route."""
        raise Unsupported("this model's backend does not render prompts")

    # for a `native` backend

    def prompt_ids(self, task: Task, cancel: Cancel | None = None) -> list[int] | None:
        """The token ids of the prompt that the backend renders for a task; None if it renders
        none. Raises Cancelled."""
        return None

    # for a server that loads its model on the first request and may unload it

    @property
    def status(self) -> str:
        """unloaded, loading, loaded, sleeping or failed; "" for a model that is always loaded."""
        return ""

    @property
    def trouble(self) -> str:
        """Why the last load failed, "" if it did not."""
        return ""

    @property
    def awaits(self) -> float:
        """Expected seconds until the model is loaded, 0 if it is."""
        return 0.0

    @property
    def leaving(self) -> bool:
        """Whether its model is about to be unloaded, so that requests wait for the next load."""
        return False

    @property
    def keeps_files(self) -> bool:
        """Whether its saved slots stay valid when its server restarts."""
        return False

    def refresh(self) -> tuple[Capabilities, bool]:
        """What is known of the model, and whether its slots lost their content since the last call.
        Neither loads nor wakes the model."""
        raise NotImplementedError

    def load(self, cancel: Cancel, key: str = "") -> Iterator[None]:
        """Wait until the result of `refresh` is not provisional, loading the model if necessary.
        Yields at every tick. `key` is the name of the API key that asks."""
        raise NotImplementedError

    def loading(self) -> str:
        """A notice for a request that waits for the model, "" if it is loaded."""
        return ""
