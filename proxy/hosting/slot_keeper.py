"""Keeps the slots of hosted models over the end of their servers, and of the gateway.

Before a server is stopped, what its slots hold is saved, the last used first, for at most `SAVING`
seconds. The scheduler (`SavedSlots`) knows each file as a cached prompt, so the request that goes
on with it restores it. Then each file of the model gets a sidecar, by which another process adopts
it.

A file is restored only as it was written, to a server like the one that wrote it (`Sidecar`): a
llama-server crashes when it reads a truncated one. What is unknown, changed or foreign is removed.
None of this may hinder a model: a failure is logged, and prompts are evaluated again.
"""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from ..backends.driver import Capabilities, Driver
from ..config import PORT, ModelConfig
from ..errors import GatewayError, UpstreamFault
from ..runtime.subprocesses import Process
from ..scheduling.saved_slots import SavedSlots, SavedTotals, SlotSave
from ..scheduling.state import VAIN
from .model_files import flag
from .process import filled_in, run
from .slot_folder import PREFIX, Identity, Sidecar, SlotFolder, of_command, of_file, with_build

log = logging.getLogger("slotproxy.models")

# The flags with which a llama-server saves slots, found in a command or added to it.
FOLDER_FLAG = "--slot-save-path"
# A llama-server moves prompts from its slots to its RAM cache, where it cannot save them. Without
# it, the scheduler saves each before it is evicted.
RAM_FLAG, RAM_FLAGS = "--cache-ram", {"--cache-ram", "-cram"}
IDLE_FLAG, IDLE_FLAGS = "--no-cache-idle-slots", {"--no-cache-idle-slots", "--cache-idle-slots"}
HELP_TIMEOUT = 20.0  # seconds for a program to print its help
SAVING = 10.0  # seconds for all slots of a server that is about to end
RESTORING = 60.0  # seconds for a slot
SETTLING = 0.5  # seconds in which the last answer gives back its slot
LOOK = 0.01  # seconds between two looks for that
TOLERANCE = 0.9  # part of the expected tokens that a server must have saved


class SlotKeeper:
    """For all models. `folder`, created if needed, has the slots of commands that name none."""

    def __init__(self, slots: SavedSlots, folder: Path) -> None:
        self.slots = slots
        self.folder = folder
        self._lock = threading.Lock()  # held while sidecars are read, so not a native one
        self._folders: dict[Path, SlotFolder | None] = {}

    def of(self, config: ModelConfig) -> ModelSlots | None:
        """The slots of a model, None if its server will not save them."""
        if config.kind == "llamacpp" and (config.save_slots or flag(config.command, FOLDER_FLAG)):
            return ModelSlots(self, config)
        return None

    def open(self, path: Path) -> SlotFolder | None:
        """The folder, None if this gateway cannot use it. Raises OSError."""
        with self._lock:
            if path not in self._folders:
                try:
                    folder = self._folders[path] = SlotFolder(path)
                    if path == self.folder:
                        folder.sweep_all()
                except BlockingIOError:
                    self._folders[path] = None
                    why = "another slotproxy uses %s, so this one saves no slots: set --data"
                    log.warning(why, path)
            return self._folders[path]


class ModelSlots:
    """The saved slots of one model. `begin`, `on_loaded` and `save` are called by its thread."""

    def __init__(self, keeper: SlotKeeper, config: ModelConfig) -> None:
        self.folder: SlotFolder | None = None  # of a loaded server that saves slots
        self.keeps_files = False  # the same of the last loaded server: its files are still valid
        self._keeper, self._slots = keeper, keeper.slots
        self._config, self._name = config, config.name
        self._flags: Sequence[str] | None = None  # that the command needs, once its help was read
        self._opened: SlotFolder | None = None  # of a server that was started
        self._command = ""  # the digest of the command and its files
        self._fingerprint = ""  # the same with what the last loaded server said
        self._identities: dict[str, Identity] = {}  # of the files that may be restored
        self._retired = False

    def retire(self) -> None:
        """Save nothing any more: another model has taken over the name."""
        self._retired = True

    def leave(self) -> None:
        """The server is about to end: its answers under way are the last ones."""
        if self.folder is not None and not self._retired:
            self._slots.leave(self._name)

    def kept(self) -> SavedTotals:
        """What its files hold; nothing before its first load."""
        return self._slots.kept(self._name)

    def begin(self) -> ModelConfig:
        """Prepare for a new server. Returns the settings with which to start it."""
        self.folder = self._opened = None
        config = self._config
        with self._careful("cannot save slots"):
            config = self._prepared(config)
        return config

    def _prepared(self, config: ModelConfig) -> ModelConfig:
        own = flag(config.command, FOLDER_FLAG)
        path = Path(config.folder, own).absolute() if own else self._keeper.folder
        if self._flags is None:
            self._flags = () if own else _flags(config, path)
            if not (own or self._flags):
                what = "model %s: its server has no %s, so its cached prompts are lost with it"
                log.warning(what, self._name, FOLDER_FLAG)
        can_save = path.is_dir() if own else bool(self._flags)
        if not can_save or self._slots.vain(self._name) >= VAIN:
            return config
        self._opened = self._keeper.open(path)
        if self._opened is None:
            return config
        self._command = of_command(config)
        return msgspec.structs.replace(config, command=(*config.command, *self._flags))

    def on_loaded(self, caps: Capabilities) -> None:
        """Find out which files this server may restore. The others are removed."""
        folder = self._opened
        self.keeps_files = folder is not None and caps.slot_save
        if folder is None or not caps.slot_save or self._retired:
            self._fingerprint = ""  # so that the sidecars tell what there is when it saves again
            return
        with self._careful("cannot use its saved slots"):
            now = with_build(self._command, caps)
            if now != self._fingerprint:
                self._fingerprint = now
                self._adopt(folder)
            else:
                files = [saved.file for saved in self._slots.prompts(self._name)]
                self._slots.forget(self._name, [f for f in files if not self._is_same(folder, f)])
            self._sweep(folder)
            self.folder = folder

    def _adopt(self, folder: SlotFolder) -> None:
        """Let the scheduler know the files of an earlier process, if they are for this server."""
        now, prompts = time.time(), []
        self._identities = {}
        for sidecar in folder.sidecars():
            prompt = sidecar.prompt
            if (sidecar.model, sidecar.server) == (self._name, self._fingerprint):
                self._identities[prompt.file] = sidecar.file
                silence = prompt.silence + max(0.0, now - sidecar.saved)
                prompts.append(msgspec.structs.replace(prompt, silence=silence))
        self._slots.adopt(self._name, prompts, self._slots.vain(self._name))
        if prompts:
            log.info("model %s: %d saved slots", self._name, len(prompts))

    def save(self, server: Driver) -> None:
        """Save the slots of a server that nobody uses and that is about to end."""
        folder, slots, name = self.folder, self._slots, self._name
        if folder is None or self._retired or not slots.beginning(name):
            return  # with the last: the model was removed
        with self._careful("cannot save its slots"):
            # The last answer has left the server, but may not have given back its slot yet.
            began = time.monotonic()
            while slots.in_flight(name) and time.monotonic() < began + SETTLING:
                time.sleep(LOOK)
            if slots.vain(name) >= VAIN:
                slots.forget(name, [saved.file for saved in slots.prompts(name)])
                what = "its slots are not saved any more: what was restored was evaluated again, as"
                also = "servers do with hybrid and recurrent models and sliding windows"
                log.warning("model %s: %s %s", name, what, also)
            began = time.monotonic()
            saves = slots.to_save(name)
            done = [save for save in saves if self._save(server, folder, save, began + SAVING)]
            self._describe(folder)
            self._sweep(folder)
            if saves:
                what, took = "model %s: saved %d of %d slots in %.2f s", time.monotonic() - began
                log.info(what, name, len(done), len(saves), took)

    def _save(self, server: Driver, folder: SlotFolder, save: SlotSave, end: float) -> bool:
        """Save a slot, if there is time and room. Returns whether it is saved."""
        slots, name = self._slots, self._name
        began = time.monotonic()
        going = slots.make_room(name, save) if began < end else None
        if going is None:
            return False
        folder.remove(going)
        try:
            tokens, size = self.write(server, save.slot, save.file, end - began)
            if tokens < TOLERANCE * save.tokens:
                raise UpstreamFault(f"it has only {tokens} of {save.tokens} tokens")
        except GatewayError as error:
            log.warning("model %s: slot %d is not saved: %s", name, save.slot, error)
            slots.forget(name, (save.file,))
            folder.remove((save.file,))
            return False
        folder.remove(slots.saved(name, save, tokens, size, time.monotonic() - began))
        return save.file in self._identities

    def write(
        self, server: Driver, slot: int, file: str, seconds: float = RESTORING
    ) -> tuple[int, int]:
        """Save a slot of a server. Raises GatewayError."""
        folder = self.folder
        if folder is None or not file.startswith(PREFIX):
            return server.slot_action("save", slot, file, seconds)
        self._identities.pop(file, None)
        try:
            folder.create(file)
        except OSError as error:
            raise UpstreamFault(f"{folder.path}: {error.strerror}") from None
        moved = server.slot_action("save", slot, file, seconds)
        identity = of_file(folder.path / file)
        if identity is not None:
            self._identities[file] = identity
        return moved

    def restore(self, server: Driver, slot: int, file: str) -> tuple[int, int]:
        """Restore a slot. Raises GatewayError: an UpstreamFault if the file has changed."""
        folder = self.folder
        if folder is not None and file.startswith(PREFIX) and not self._is_same(folder, file):
            log.warning("model %s: the saved slot %s has changed", self._name, file)
            raise UpstreamFault("the saved slot has changed")
        return server.slot_action("restore", slot, file, RESTORING)

    def _is_same(self, folder: SlotFolder, file: str) -> bool:
        identity = self._identities.get(file)
        return identity is not None and of_file(folder.path / file) == identity

    def _describe(self, folder: SlotFolder) -> None:
        """Write the sidecars of the files. Raises OSError."""
        sidecars = {}
        for saved in self._slots.prompts(self._name):
            if identity := self._identities.get(saved.file):
                sidecars[saved.file] = Sidecar(
                    model=self._name,
                    server=self._fingerprint,
                    file=identity,
                    saved=time.time(),
                    prompt=saved,
                )
        folder.describe(sidecars)

    def _sweep(self, folder: SlotFolder) -> None:
        """Remove the files of this model that nobody knows."""
        beginning = self._slots.beginning(self._name)
        if beginning:
            keep = {saved.file for saved in self._slots.prompts(self._name)}
            self._identities = {f: self._identities[f] for f in keep & self._identities.keys()}
            folder.sweep(keep, beginning)

    @contextmanager
    def _careful(self, what: str) -> Iterator[None]:
        try:
            yield
        except (GatewayError, OSError) as error:
            log.warning("model %s: %s: %s", self._name, what, error)


def _flags(config: ModelConfig, folder: Path) -> tuple[str, ...]:
    """The flags with which the server saves slots in `folder`, if its --help lists them."""
    listed, given = _help(config), {word.partition("=")[0] for word in config.command}
    more: tuple[str, ...] = ()
    if RAM_FLAG in listed and not given & RAM_FLAGS:
        more = (RAM_FLAG, "0")
    elif IDLE_FLAG in listed and not given & IDLE_FLAGS:
        more = (IDLE_FLAG,)
    return (FOLDER_FLAG, str(folder), *more) if FOLDER_FLAG in listed else ()


def _help(config: ModelConfig) -> str:
    """What a command prints with --help; "" if it does not end in time. Nothing is loaded."""
    words = (*filled_in(config.command, PORT, 1), "--help")
    with run(config, words, config.environment) as process:
        try:
            return process.communicate(timeout=HELP_TIMEOUT)[0].decode("utf-8", "replace")
        except subprocess.TimeoutExpired:
            return ""
        finally:
            Process(process).kill()
