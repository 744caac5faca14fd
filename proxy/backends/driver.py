"""The driver interface: what the gateway needs from a backend, whatever its protocol."""

from __future__ import annotations

import math
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from msgspec import Struct

from ..core.adapters import Adapter
from ..core.events import Batch
from ..core.task import CallMaker, Embedded, Forwarded, Ranked, Task
from ..core.usage import Usage
from ..errors import BackendDown, Unsupported
from ..runtime.cancel import Cancel
from ..wire.router import Listed

AT_ONCE = 32  # inputs in one call for embeddings
NO_API = "this model's backend does not support this API: name a model whose server does"
Input = str | tuple[int, ...]
SlotAction = Literal["save", "restore", "erase"]


def new_id() -> str:
    """An id of a tool call."""
    return f"call_{uuid.uuid4().hex[:24]}"


class Capabilities(Struct, frozen=True, kw_only=True):
    """The result of a probe, published by GET /v1/backends."""

    dialect: str  # the server's generation
    slot_field: str = "slot_id"
    slots: int = 0  # 0: unknown
    most_slots: int = 0  # if not 0, `slots` is a first guess, and at most so many are learned
    n_ctx: int = 0  # of one slot in tokens, 0: unknown
    n_vocab: int = 0  # size of the vocabulary, 0: unknown
    queues: bool = False  # it queues requests while its slots are busy
    truncates: bool = True  # it silently truncates prompts beyond the context
    doubles: bool = False  # it evaluates the last token of a cached prompt again, and keeps both
    honours_seed: bool = False
    infill: bool = False
    chat: bool = False
    json_schema: bool = False
    tokenize: bool = True
    progress: bool = False
    modern_sampling: bool = False
    slot_save: bool = False  # slots can be saved to files, restored and erased
    ram_cache: bool = False  # it keeps old prompts in RAM
    adapters: tuple[Adapter, ...] = ()  # LoRA adapters that requests may choose
    native: bool = False  # it accepts chat messages and renders the prompt itself
    embeddings: bool = False
    vision: bool = False
    audio: bool = False
    lacks: frozenset[str] = frozenset()  # sampling fields, by their names in core.sampling
    by_prompt: frozenset[str] = frozenset()  # of `core.request`, described in the messages instead
    settings: Mapping[str, Any] = {}  # its default sampling settings, under its own names
    metrics: bool = False  # it has counters at GET /metrics
    template: str = ""
    template_from: Literal["server", "file"] = "server"
    bos_token: str = ""
    adds_bos: bool = True
    eos_token: str = ""
    models: tuple[str, ...] = ()
    build: str = ""
    provisional: bool = False  # the model was never loaded: slots, context, template are unknown


OnCapabilities = Callable[[Capabilities], None]


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


class LaterRun:
    """A completion that begins after a wait: `_run`, once there is one."""

    _run: Run | None = None

    @property
    def slot(self) -> int:
        return self._run.slot if self._run is not None else -1

    def usage(self) -> Usage:
        return self._run.usage() if self._run is not None else Usage()

    def close(self) -> None:
        if self._run is not None:
            self._run.close()


class Driver(ABC):
    """Talks to one backend. Every method raises only errors of `proxy.errors`. Those after `close`
    are for features that not every backend has. `no_text` says why a backend makes no text, and
    `forwards` names the routes whose requests are only forwarded to it, for one of another API.
    `leaving`: its model is about to be unloaded, so requests wait for the next load."""

    no_text = forwards = ""
    leaving: bool = False

    @abstractmethod
    def probe(self, deadline: float, on_capabilities: OnCapabilities = ignore) -> Capabilities:
        """Find out what the server can do, and get one token within `deadline` seconds.
        `on_capabilities` is called with what is known before. Raises BackendDown, UpstreamFault,
        UpstreamTimeout."""

    @abstractmethod
    def alive(self) -> bool:
        """Whether it responds: a cheap request that touches no slot."""

    @abstractmethod
    def close(self) -> None:
        """Close idle connections."""

    # for a server that makes texts

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> Run:
        """Start a completion on `slot` (-1: any). `task.max_tokens` must be finite."""
        raise Unsupported(self.no_text)

    def tokenize(self, text: str, special: bool = False, cancel: Cancel | None = None) -> list[int]:
        """The token ids of a text; with `special`, including those that begin a prompt (BOS)."""
        raise Unsupported(self.no_text)

    def detokenize(self, tokens: list[int]) -> str:
        """The text of token ids. Raises CharacterCut where half of a character has none."""
        raise Unsupported(self.no_text)

    # for a server that takes prompts as text

    def in_parts(self, task: Task, cancel: Cancel | None = None) -> list[str | int]:
        """The prompt of a task as it is sent, in texts and token ids: no token spans a break."""
        return [task.prompt] if isinstance(task.prompt, str) else list(task.prompt)

    # for a server that does not report its slots, or its vocabulary

    def count_slots(self) -> int:
        """The number of slots, 0 if it is unknown. Called while nothing of ours runs there."""
        return 0

    def n_vocab(self) -> int | None:
        """The number of token ids, 0 if the backend does not reveal it; None if ids outside of the
        vocabulary do no harm. Leaves the slots' content. Raises BackendBusy if no slot is free."""
        return None

    # for a server with `slot_save`, with `metrics`, or that reports the bytes of each token

    def slot_action(
        self, action: SlotAction, slot: int, file: str, seconds: float | None = None
    ) -> tuple[int, int]:
        """Save a slot to a file of this name on the server, restore it from there, or erase it.
        Returns the number of tokens and bytes moved."""
        raise Unsupported("this model's backend cannot save slots")

    def counters(self) -> dict[str, float]:
        """The backend's counters, by llama-server's names (n_decode_total …)."""
        return {}

    def pieces(self, text: str, special: bool) -> list[tuple[int, bytes]]:
        raise Unsupported(
            "this model's backend does not report the text of each token", param="with_pieces"
        )

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
        raise Unsupported("this model's backend does not support embeddings")

    # for a server that gets requests as clients sent them

    def forward(self, make: CallMaker, cancel: Cancel) -> Forwarded:
        """Forward a call, and wait for the head of its answer, which must be closed."""
        raise Unsupported(NO_API, param="model")

    # for a server that renders chats like us

    def server_prompt(self, task: Task) -> str | None:
        """The prompt that the server's own chat route makes of a chat; None if it refuses the chat.
        Takes no slot and loads no model."""
        raise Unsupported("this model's backend does not render prompts")

    # for a `native` backend

    def prompt_ids(self, task: Task, cancel: Cancel | None = None) -> list[int] | None:
        """The token ids of the prompt that the backend renders for a task, None if it does not."""
        return None

    # for a server that loads its model on the first request and may unload it

    @property
    def status(self) -> str:
        """unloaded, loading, loaded, sleeping or failed; "" for a model that is always loaded."""
        return ""

    def trouble(self, *, admin: bool = False) -> str:
        """Why the last load failed, as an admin or others read it, "" if it did not."""
        return ""

    @property
    def load_eta(self) -> float:
        """Expected seconds until the model is loaded, 0 if it is."""
        return 0.0

    @property
    def keeps_files(self) -> bool:
        """Whether its saved slots stay valid when its server restarts."""
        return False

    def refresh(self) -> tuple[Capabilities, bool]:
        """What is known of the model, and whether its slots lost their content since the last call.
        Neither loads nor wakes the model."""
        raise NotImplementedError

    def load(self, cancel: Cancel) -> Iterator[None]:
        """Load the model until the result of `refresh` is not provisional. Yields at every tick."""
        raise NotImplementedError

    def loading(self) -> str:
        """A notice for a request that waits for the model, "" if it is loaded."""
        return ""


class ModelHost:
    """An address with several models, each with a driver of its own. `up`: it answered last;
    `models` are those that `look` last found, by name. One request for the list serves all."""

    interval = math.inf  # seconds between two looks, at most

    def __init__(self, make: Callable[[str], Driver]) -> None:
        self.up = True
        self.models: Mapping[str, Listed] = {}
        self._make = make
        self._drivers: dict[str, Any] = {}
        self._looking = threading.Lock()
        self._fault: BackendDown | None = None  # what the last look met,
        self._looked = 0.0  # and when it ended

    def look(self, age: float = 0.0) -> Mapping[str, Listed] | None:
        """The models as they are now, or were at most `age` seconds ago; None if the address has
        but one now. Raises BackendDown."""
        with self._looking:
            if time.monotonic() - self._looked < age:
                if self._fault is not None:
                    raise type(self._fault)(str(self._fault))
                return self.models
            try:
                models, self._fault = self._listed(), None
            except BackendDown as error:
                self.up, self._fault = False, error
                raise
            finally:
                self._looked = time.monotonic()
            self.up = models is not None
            before, self.models = self.models, models or {}
            for name, new in self.models.items():
                old = before.get(name)
                if old is not None and old != new and name in self._drivers:
                    self._drivers[name].changed(old, new)
            return models

    def _listed(self) -> Mapping[str, Listed] | None:
        """Ask for the models that `look` returns."""
        raise NotImplementedError

    def model(self, name: str) -> Any:
        if name not in self._drivers:
            self._drivers[name] = self._make(name)
        return self._drivers[name]

    def forget(self, name: str) -> None:
        """Forget a model that is no longer listed. A later one of this name may be another."""
        self._drivers.pop(name, None)

    @property
    def lost(self) -> frozenset[str]:
        """The models whose slots lost their content, until the registry has handled it."""
        return frozenset()

    def close(self) -> None:
        """Close idle connections."""
