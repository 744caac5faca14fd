"""What a model needs: as configured, else as its server showed, else a guess by the size of its
files. What a server showed is kept under a fingerprint of its command and files.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Container, Mapping, Sequence
from functools import cached_property
from itertools import takewhile, zip_longest
from typing import Any, Literal, Protocol

import msgspec

from ..config import ModelConfig
from ..errors import GatewayError
from ..runtime.blocking import run_in_native_thread
from .memory_budget import Amounts
from .model_files import ModelFile, files, fingerprint, flag
from .process import resident

log = logging.getLogger("slotproxy.models")

PATIENCE = 10.0  # seconds for nvidia-smi
MIB = 1 << 20

Source = Literal["set", "measured", "estimated"]

FACTOR = 1.25  # what a model is assumed to need, in sizes of its files
GUESS = 5.0  # seconds that a load is assumed to take before the first one


class Cards:
    """The graphics cards, numbered as nvidia-smi numbers them. `sizes` are the bytes of each by
    --gpu-memory. Without nvidia-smi, what a model holds on cards is never measured."""

    def __init__(self, sizes: Sequence[int] = ()) -> None:
        self._given = tuple(sizes)

    @cached_property
    def totals(self) -> tuple[int, ...]:
        """The bytes of each card that models may hold; () if there are none."""
        return self._given or tuple(total for _, total in self._listed)

    def held(self, pids: Container[int]) -> tuple[int, ...]:
        """The bytes that these processes hold on each card; () if nobody can tell."""
        if not self._listed:
            return ()
        held = dict.fromkeys((uuid for uuid, _ in self._listed), 0)
        for uuid, pid, used in _nvidia_smi("compute-apps", "gpu_uuid,pid,used_gpu_memory"):
            if uuid in held and pid.isdecimal() and int(pid) in pids and used.isdecimal():
                held[uuid] += int(used) * MIB
        return tuple(held.values())

    @cached_property
    def _listed(self) -> list[tuple[str, int]]:
        """Id and bytes of each card that nvidia-smi knows."""
        if shutil.which("nvidia-smi") is None:
            return []
        rows = _nvidia_smi("gpu", "uuid,index,memory.total")
        return [(uuid, int(total) * MIB) for uuid, _, total in rows if total.isdecimal()]


def _nvidia_smi(what: str, fields: str) -> list[tuple[str, str, str]]:
    """The rows that nvidia-smi prints; none if it fails."""
    command = ["nvidia-smi", f"--query-{what}={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("the memory of graphics cards is not known: nvidia-smi: %s", error)
        return []
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    rows = [tuple(re.split(r",\s*", line.strip())) for line in lines]
    return [(row[0], row[1], row[2]) for row in rows if len(row) == 3]


def visible(words: str | None, count: int) -> list[int]:
    """The numbers of the cards that a server with these CUDA_VISIBLE_DEVICES uses."""
    if words is None or re.search("[A-Za-z]", words):  # all, or by their ids
        return list(range(count))
    # As CUDA: those after an invalid one do not exist.
    return list(takewhile(lambda card: 0 <= card < count, map(int, re.findall(r"-?\d+", words))))


class Learned(msgspec.Struct, frozen=True):
    """What the last server of a model showed."""

    memory: int = 0  # the most bytes that it held
    seconds: float = GUESS  # of its load
    cards: Amounts = ()  # the most bytes on each graphics card, () if nobody can tell
    loaded_at: float = 0.0  # seconds since 1970; 0 before the first load


class KeptNeeds(Protocol):
    """Keeps what was learned, by fingerprint. Both raise StoreUnavailable."""

    def recall(self, fingerprint: str) -> Mapping[str, Any] | None: ...

    def keep(self, fingerprint: str, need: Mapping[str, Any]) -> None: ...


class Need:
    """Of one model: `recall` reads what is known, `measure` and `learn` note what is seen."""

    def __init__(
        self, config: ModelConfig, stored: KeptNeeds | None = None, cards: Cards | None = None
    ) -> None:
        self._config, self._kept, self._cards = config, stored, cards or Cards()
        self._fingerprint = ""
        self.learned = self._saved = Learned()
        self._most: Amounts = ()  # that its present server held
        self._lock = threading.Lock()  # held while the store is asked, so not a native one

    @property
    def amounts(self) -> Amounts:
        return (self.memory, *self.cards)

    @property
    def memory(self) -> int:
        memory = self._config.memory_bytes or self.learned.memory
        return memory or (0 if self._uses_cards else self._guess)

    @property
    def cards(self) -> Amounts:
        gpu_memory = self._config.gpu_memory_bytes
        if len(gpu_memory) > 1 or (self.learned.cards and not gpu_memory):
            return gpu_memory or self.learned.cards
        visible = self._visible
        whole = gpu_memory[0] if gpu_memory else self._guess * self._uses_cards
        share = whole // max(1, len(visible))
        return tuple(share * visible.count(card) for card in range(len(self._cards.totals)))

    @property
    def source(self) -> Source:
        if self._config.memory:
            return "set"
        return "measured" if self.learned.memory else "estimated"

    @cached_property
    def files(self) -> Sequence[ModelFile]:
        """The GGUF files of its command, that of the model first."""
        return run_in_native_thread(lambda: files(self._config))

    @property
    def file(self) -> ModelFile | None:
        """That of the model; None if it is no GGUF file."""
        return self.files[0] if self.files else None

    @property
    def _guess(self) -> int:
        return round(sum(file.size for file in self.files) * FACTOR)

    @property
    def _visible(self) -> Sequence[int]:
        name = "CUDA_VISIBLE_DEVICES"
        words = self._config.environment.get(name, os.environ.get(name))
        return visible(words, len(self._cards.totals))

    @property
    def _uses_cards(self) -> bool:
        """Whether its server probably puts the model on cards: all of it, unless told otherwise."""
        command = self._config.command
        layers = flag(command, "-ngl", "--gpu-layers", "--n-gpu-layers")
        return bool(self._visible) and layers != "0" and flag(command, "-dev", "--device") != "none"

    def recall_once(self) -> None:
        """`recall`, if nothing has done so yet; asking for the cards does not hold up others."""
        if not self._fingerprint:
            self.recall()
            run_in_native_thread(lambda: self.amounts)

    def recall(self) -> None:
        """Find out whether its files are still those that were seen, and what is known of them."""
        with self._lock:
            now = fingerprint(self._config)
            if now == self._fingerprint:
                return
            self.__dict__.pop("files", None)
            self._fingerprint = now
            self.learned = Learned()
            if self._kept is not None:
                try:
                    self.learned = msgspec.convert(self._kept.recall(now) or {}, Learned)
                except (GatewayError, msgspec.ValidationError) as error:
                    log.warning("model %s: its memory is not known: %s", self._config.name, error)
            self._saved = self.learned

    def measure(self, pid: int) -> None:
        """Look at what its server holds now. The most of it is its need."""
        held = resident(pid)
        now = (sum(held.values()), *self._cards.held(held))
        memory, *cards = self._most = tuple(map(max, zip_longest(self._most, now, fillvalue=0)))
        learned = self.learned
        self.learned = msgspec.structs.replace(
            learned, memory=memory or learned.memory, cards=tuple(cards) or learned.cards
        )

    def learn(self, seconds: float) -> None:
        """Note that the server was loaded just now, after so many seconds."""
        self.learned = msgspec.structs.replace(
            self.learned, seconds=round(seconds, 3), loaded_at=round(time.time(), 1)
        )

    def end(self) -> None:
        """Note that the server has ended: the next one may need less."""
        self._most = ()

    def keep(self) -> None:
        """Remember what is known, which may take a moment."""
        if self._kept is None or self.learned in (self._saved, Learned()):
            return
        try:
            self._kept.keep(self._fingerprint, msgspec.to_builtins(self.learned))
            self._saved = self.learned
        except GatewayError as error:
            log.warning("model %s: its memory is not kept: %s", self._config.name, error)
