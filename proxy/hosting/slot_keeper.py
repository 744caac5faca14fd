"""Keeps the slots of hosted models over the end of their servers, and of the gateway.

Before a server is stopped, what its slots hold is saved, the last used first, for at most `SAVING`
seconds. The scheduler (`SavedSlots`) knows each file as a cached prompt, so the request that goes
on with it restores it. At the end of every server, each file of its model gets a sidecar, by which
another process adopts it.

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
from ..runtime.locks import native_lock
from ..runtime.subprocesses import kill_session, start_program
from ..scheduling.saved_slots import Kept, SavedSlots, SlotSave, beginning_of
from ..scheduling.state import VAIN
from . import slot_folder
from .model_files import flag
from .process import filled_in
from .slot_folder import PREFIX, Identity, Sidecar, SlotFolder, Vain

# The flags with which a llama-server saves slots, found in a command or added to it.
FOLDER_FLAG = "--slot-save-path"
# A llama-server moves prompts from its slots to its RAM cache, where it cannot save them. Without
# it, the scheduler saves each before it is evicted.
RAM_FLAG, RAM_FLAGS = "--cache-ram", {"--cache-ram", "-cram"}
IDLE_FLAG, IDLE_FLAGS = "--no-cache-idle-slots", {"--no-cache-idle-slots", "--cache-idle-slots"}
HELP_TIMEOUT = 20.0  # seconds for a program to print its help
MAX_HELP = 1 << 20  # bytes of it

_lock = native_lock()
_helps: dict[tuple[str, ...], str] = {}  # by command without the model


def folder_in(command: Sequence[str], base: str) -> Path | None:
    """The folder for saved slots that a command names, which runs in the folder `base`."""
    found = flag(command, FOLDER_FLAG)
    return Path(base, found).absolute() if found else None


def added(config: ModelConfig, folder: Path) -> tuple[str, ...]:
    """The flags to add, so that the server saves slots in `folder`: none if its --help does not
    list them."""
    known, given = _help(config), {word.partition("=")[0] for word in config.command}
    if FOLDER_FLAG not in known:
        return ()
    flags: tuple[str, ...] = (FOLDER_FLAG, str(folder))
    if RAM_FLAG in known and not given & RAM_FLAGS:
        flags += (RAM_FLAG, "0")
    elif IDLE_FLAG in known and not given & IDLE_FLAGS:
        flags += (IDLE_FLAG,)
    return flags


def _help(config: ModelConfig) -> str:
    """What a command prints with --help, whatever program it begins with; "" if it prints nothing
    in time. A llama-server prints its help before it opens the model."""
    key = tuple(word for word in config.command if not word.endswith(".gguf"))
    with _lock:
        if key in _helps:
            return _helps[key]
    text = _printed((*filled_in(config.command, PORT, 1), "--help"), config)
    with _lock:
        _helps[key] = text
    return text


def _printed(words: Sequence[str], config: ModelConfig) -> str:
    """Raises OSError."""
    process = start_program(
        words,
        config.environment,
        cwd=config.folder or None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    late = threading.Timer(HELP_TIMEOUT, kill_session, (process,))
    late.start()
    try:
        assert process.stdout is not None
        with process.stdout as output:
            return output.read(MAX_HELP).decode("utf-8", "replace")
    finally:
        late.cancel()
        kill_session(process)
        process.wait()


log = logging.getLogger("slotproxy.models")

SAVING = 10.0  # seconds for all slots of a server that is about to end
RESTORING = 60.0  # seconds for a slot
SETTLING = 0.5  # seconds in which the last answer gives back its slot
LOOK = 0.01  # seconds between two looks for that
MIB = 1 << 20
IN_VAIN = (
    "its slots are not saved any more: what was restored was evaluated again, as servers do with"
    " hybrid and recurrent models and sliding windows"
)
TOLERANCE = 0.9  # part of the expected tokens that a server must have saved


class SlotKeeper:
    """For all models of a gateway. `folder` has the slots of all commands that name no folder of
    their own; it is created when it is needed."""

    def __init__(self, slots: SavedSlots, folder: Path) -> None:
        self.slots = slots
        self.folder = folder
        self._lock = threading.Lock()  # held while sidecars are read, so not a native one
        self._folders: dict[Path, SlotFolder | None] = {}

    def of(self, config: ModelConfig) -> ModelSlots | None:
        """The slots of a model, None if its server will not save them."""
        if config.kind != "llamacpp":
            return None
        if config.save_slots or folder_in(config.command, config.folder) is not None:
            return ModelSlots(self, config)
        return None

    def open(self, path: Path) -> SlotFolder | None:
        """The folder, None if this gateway cannot use it. Raises OSError."""
        with self._lock:
            return self._opened(path)

    def _opened(self, path: Path) -> SlotFolder | None:
        if path not in self._folders:
            try:
                folder = self._folders[path] = SlotFolder(path)
            except BlockingIOError:
                log.warning(
                    "another slotproxy uses %s, so this one saves no slots: give it a folder with"
                    " --data",
                    path,
                )
                self._folders[path] = None
                return None
            if path == self.folder:
                folder.sweep_all()
        return self._folders[path]


class ModelSlots:
    """The saved slots of one model. `begin`, `on_loaded` and `save` are called by its thread."""

    def __init__(self, keeper: SlotKeeper, config: ModelConfig) -> None:
        self.active = False  # the loaded server saves slots, and its files are known
        self.keeps_files = False  # the same of the last loaded server: its files are still valid
        self._keeper = keeper
        self._config = config
        self._name = config.name
        self._folder: SlotFolder | None = None
        self._command = ""  # the digest of the command and its files
        self._fingerprint = ""  # the same with what the last loaded server said
        self._identities: dict[str, Identity] = {}  # of the files that may be restored
        self._before: Kept | None = None  # what the sidecars said at first
        self._told = False
        self._retired = False

    def retire(self) -> None:
        """Save nothing any more: another model has taken over the name."""
        self._retired = True

    def leave(self) -> None:
        """The server is about to end: its answers under way are the last ones."""
        if self.active and not self._retired:
            self._keeper.slots.leave(self._name)

    def kept(self) -> Kept:
        """What its files hold; before the first load, by their sidecars."""
        if self._fingerprint:
            return self._keeper.slots.kept(self._name)
        if self._before is None:
            own = folder_in(self._config.command, self._config.folder)
            prompts = [
                s.prompt for s in slot_folder.sidecars(own or self._keeper.folder, self._name)
            ]
            self._before = Kept(sum(p.tokens for p in prompts), sum(p.size for p in prompts))
        return self._before

    def begin(self) -> ModelConfig:
        """Prepare for a new server. Returns the settings with which to start it."""
        self.active, self._folder = False, None
        config = self._config
        with self._careful("cannot save slots"):
            config = self._prepared(config)
        return config

    def _prepared(self, config: ModelConfig) -> ModelConfig:
        flags: tuple[str, ...] = ()
        path = folder_in(config.command, config.folder)
        if path is None:
            path = self._keeper.folder
            flags = added(config, path)
            if not flags:
                self._tell_once("its server has no --slot-save-path: its caches end with it")
                return config
        elif not path.is_dir():
            return config
        folder = self._keeper.open(path)
        if folder is None:
            return config
        self._command = slot_folder.of_command(config)
        if self._vain(folder) >= VAIN:
            self._tell_once(IN_VAIN)
            return config
        self._folder = folder
        return msgspec.structs.replace(config, command=(*config.command, *flags))

    def on_loaded(self, caps: Capabilities) -> None:
        """Find out which files this server may restore. The others are removed."""
        slots, folder = self._keeper.slots, self._folder
        self.keeps_files = folder is not None and caps.slot_save
        if folder is None or not caps.slot_save or self._retired:
            self._fingerprint = ""  # so that the sidecars tell what there is when it saves again
            return
        with self._careful("cannot use its saved slots"):
            now = slot_folder.with_build(self._command, caps)
            if now != self._fingerprint:
                self._fingerprint = now
                self._identities = self._adopt(folder)
            else:
                known = [saved.file for saved in slots.prompts(self._name)]
                slots.forget(self._name, [file for file in known if not self._is_same(file)])
            self._sweep(folder)
            self.active = True

    def save(self, server: Driver) -> None:
        """Save the slots of a server that nobody uses and that is about to end."""
        folder = self._folder
        if not self.active or folder is None or self._retired:
            return
        slots, name = self._keeper.slots, self._name
        if not slots.beginning(name):
            return  # the model was removed
        with self._careful("cannot save its slots"):
            self._wait_for_leases()
            if slots.vain(name) >= VAIN:
                slots.forget(name, [saved.file for saved in slots.prompts(name)])
                self._tell_once(IN_VAIN)
            began = time.monotonic()
            saves = slots.to_save(name)
            done = [save for save in saves if self._save(server, folder, save, began + SAVING)]
            self._record(folder)
            self._sweep(folder)
            if saves:
                log.info(
                    "model %s: saved %d of %d slots, %d tokens, in %.2f s; %.1f MiB are on disk",
                    name,
                    len(done),
                    len(saves),
                    sum(save.tokens for save in done),
                    time.monotonic() - began,
                    sum(saved.size for saved in slots.prompts(name)) / MIB,
                )

    def write(self, server: Driver, slot: int, file: str) -> tuple[int, int]:
        """Save a slot of a server that keeps running. Raises GatewayError."""
        return self._write(server, slot, file, RESTORING)

    def restore(self, server: Driver, slot: int, file: str) -> tuple[int, int]:
        """Restore a slot. Raises GatewayError: an UpstreamFault if the file has changed."""
        if self.active and file.startswith(PREFIX) and not self._is_same(file):
            log.warning("model %s: the saved slot %s has changed", self._name, file)
            raise UpstreamFault("the saved slot has changed")
        return server.slot_action("restore", slot, file, RESTORING)

    def _adopt(self, folder: SlotFolder) -> dict[str, Identity]:
        """Let the scheduler know the files of an earlier process, if they are for this server.
        Returns their identities."""
        now, prompts, identities = time.time(), [], {}
        for sidecar in slot_folder.sidecars(folder.path, self._name):
            if sidecar.server != self._fingerprint:
                continue
            saved = sidecar.prompt
            silence = saved.silence + max(0.0, now - sidecar.saved)
            prompts.append(msgspec.structs.replace(saved, silence=silence))
            identities[saved.file] = sidecar.file
        self._keeper.slots.adopt(self._name, prompts, self._vain(folder))
        if prompts:
            tokens = sum(saved.tokens for saved in prompts)
            log.info("model %s: %d saved slots, %d tokens", self._name, len(prompts), tokens)
        return identities

    def _vain(self, folder: SlotFolder) -> int:
        """How many files that this command restored were of no use in a row, so far."""
        vain = folder.vain(beginning_of(self._name))
        return vain.count if vain.command == self._command else 0

    def _save(self, server: Driver, folder: SlotFolder, save: SlotSave, end: float) -> bool:
        """Save a slot, if there is time and room. Returns whether it is saved."""
        slots, name = self._keeper.slots, self._name
        began = time.monotonic()
        if began >= end:
            return False
        going = slots.make_room(name, save)
        if going is None:
            return False
        folder.remove(going)
        try:
            tokens, size = self._write(server, save.slot, save.file, end - began)
            if tokens < TOLERANCE * save.tokens:
                raise UpstreamFault(f"it has only {tokens} of {save.tokens} tokens")
        except GatewayError as error:
            log.warning("model %s: slot %d is not saved: %s", name, save.slot, error)
            slots.forget(name, (save.file,))
            folder.remove((save.file,))
            return False
        folder.remove(slots.saved(name, save, tokens, size, time.monotonic() - began))
        return save.file in self._identities

    def _write(self, server: Driver, slot: int, file: str, seconds: float) -> tuple[int, int]:
        folder = self._folder
        if not self.active or folder is None or not file.startswith(PREFIX):
            return server.slot_action("save", slot, file, seconds)
        self._identities.pop(file, None)
        try:
            folder.create(file)
        except OSError as error:
            raise UpstreamFault(f"{folder.path}: {error.strerror}") from None
        moved = server.slot_action("save", slot, file, seconds)
        identity = slot_folder.of_file(folder / file)
        if identity is not None:
            self._identities[file] = identity
        return moved

    def _is_same(self, file: str) -> bool:
        """Whether a file is as it was written."""
        known = self._identities.get(file)
        return (
            self._folder is not None
            and known is not None
            and slot_folder.of_file(self._folder / file) == known
        )

    def _record(self, folder: SlotFolder) -> None:
        """Write the sidecars of the files. Raises OSError."""
        now, slots = time.time(), self._keeper.slots
        folder.describe(
            {
                saved.file: Sidecar(
                    model=self._name,
                    server=self._fingerprint,
                    file=self._identities[saved.file],
                    saved=now,
                    prompt=saved,
                )
                for saved in slots.prompts(self._name)
                if saved.file in self._identities
            }
        )
        vain = Vain(command=self._command, count=slots.vain(self._name))
        folder.note(beginning_of(self._name), vain)

    def _sweep(self, folder: SlotFolder) -> None:
        """Remove the files of this model that nobody knows."""
        slots = self._keeper.slots
        beginning = slots.beginning(self._name)
        if beginning:
            keep = {saved.file for saved in slots.prompts(self._name)}
            self._identities = {f: known for f, known in self._identities.items() if f in keep}
            folder.sweep(keep, beginning)

    def _wait_for_leases(self) -> None:
        """The last answer has left the server, but may not have given back its slot yet."""
        end = time.monotonic() + SETTLING
        while self._keeper.slots.in_flight(self._name) and time.monotonic() < end:
            time.sleep(LOOK)  # leases end within milliseconds, without an event to wait for

    def _tell_once(self, what: str) -> None:
        if not self._told:
            log.warning("model %s: %s", self._name, what)
        self._told = True

    @contextmanager
    def _careful(self, what: str) -> Iterator[None]:
        """Log an error instead of raising it."""
        try:
            yield
        except (GatewayError, OSError) as error:
            log.warning("model %s: %s: %s", self._name, what, error)
