"""Slots of hosted models that outlive their server. The servers write files of a few bytes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from proxy.backends.driver import SlotAction
from proxy.config import ModelConfig
from proxy.errors import UpstreamFault, UpstreamTimeout
from proxy.hosting import slot_folder, slot_keeper
from proxy.hosting.slot_keeper import ModelSlots, SlotKeeper
from proxy.scheduling.prefix import MOST
from proxy.scheduling.saved_slots import SavedTotals
from proxy.scheduling.state import BackendFacts
from tests.fakes import CAPS, ScriptedDriver
from tests.unit.scheduling.fakes import World

from .fakes import config

LONG = "a question " * 100
FLAG = "--slot-save-path"
caps = msgspec.structs.replace(CAPS, slot_save=True, build="b1")


class Server(ScriptedDriver):
    """A server that saves slots in a folder."""

    def __init__(self, folder: Path, tokens: int = 279) -> None:
        super().__init__()
        self.folder = folder
        self.tokens = tokens
        self.fault: Exception | None = None
        self.actions: list[tuple[SlotAction, str, float | None]] = []

    def slot_action(
        self, action: SlotAction, slot: int, file: str, seconds: float | None = None
    ) -> tuple[int, int]:
        self.actions.append((action, file, seconds))
        if self.fault is not None:
            raise self.fault
        path = self.folder / file
        if action == "save":
            path.write_bytes(b"ggsq" + b"x" * 1000)
        return self.tokens, path.stat().st_size


class Life:
    """A gateway with one model, `m`, of one slot; another one is its next life."""

    def __init__(self, folder: Path, *words: str, **fields: object) -> None:
        self.world = World(slots=0, disk=10_000_000)
        self.world.scheduler.drain("b0")
        self.up()
        folder.mkdir(exist_ok=True)
        self.server = Server(folder)
        self.keeper = SlotKeeper(self.world.scheduler.saved_slots, folder.parent / "own")
        command = f"sh -c 'exec sleep 60' ${{PORT}} {FLAG} {folder} {' '.join(words)}"
        slots = self.keeper.of(config(command, **fields))
        assert slots is not None
        self.slots: ModelSlots = slots

    def up(self) -> None:
        """Its server is back."""
        facts = BackendFacts(model="m", slots=1, cache_kind="files", keeps_files=True)
        self.world.scheduler.update("m", facts, up=True, anew=True)

    def load(self, build: str = "b1") -> list[str]:
        """Load the server. Returns the files that it may restore."""
        self.slots.begin()
        self.slots.on_loaded(msgspec.structs.replace(caps, build=build))
        return self.files()

    def files(self) -> list[str]:
        return [prompt.file for prompt in self.world.scheduler.saved_slots.prompts("m")]

    def end(self) -> None:
        """The gateway is killed."""
        for folder in self.keeper._folders.values():
            assert folder is not None
            folder.close()


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Callable[..., Life]]:
    """Lives of a gateway, one after the other."""
    lives: list[Life] = []

    def begin(*words: str, **fields: object) -> Life:
        for life in lives:
            life.end()
        lives.append(Life(tmp_path / "slots", *words, **fields))
        return lives[-1]

    yield begin
    lives[-1].end()


def saved(live: Callable[..., Life], *words: str, **fields: object) -> tuple[Life, str]:
    """A life that has saved a prompt, and the file."""
    life = live(*words, **fields)
    assert life.load() == []
    life.world.turn(LONG)
    life.slots.save(life.server)
    (file,) = life.files()
    return life, file


def used(live: Callable[..., Life]) -> Life:
    """A life whose slot holds a prompt."""
    life = live()
    life.load()
    life.world.turn(LONG)
    return life


def on_disk(life: Life) -> list[str]:
    return sorted(path.name for path in life.server.folder.glob("*.bin"))


def test_prompts_are_restored_in_the_next_life(live: Callable[..., Life]) -> None:
    first, file = saved(live)
    assert (first.server.folder / file).stat().st_mode & 0o777 == 0o600
    first.up()  # the server came back, the gateway had not ended
    assert first.load() == [file]
    assert first.slots.restore(first.server, 0, file) == (279, 1004)
    second = live()
    assert second.load() == [file]
    second.up()
    lease = second.world.take(LONG + "and?", (len(LONG), len(LONG) + 4))
    assert lease.grant.restore is not None
    assert second.slots.restore(second.server, 0, file) == (279, 1004)


def test_files_are_known_while_the_next_server_starts(live: Callable[..., Life]) -> None:
    life, file = saved(live)
    life.slots.begin()  # before anybody has noticed the end of the last server
    assert life.slots.keeps_files
    life.slots.on_loaded(caps)
    assert life.files() == [file]


def test_server_that_could_not_save_for_once_loses_no_files(live: Callable[..., Life]) -> None:
    life, file = saved(live)
    life.slots.begin()
    life.slots.on_loaded(CAPS)
    assert not life.slots.keeps_files
    life.world.scheduler.update("m", BackendFacts(model="m", slots=1), up=True, anew=True)
    assert life.files() == []
    assert life.load() == [file]


@pytest.mark.parametrize("life", ["same", "next"])
@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(path.read_bytes()[:500]),
        lambda path: path.write_bytes(b"y" * 1004),
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
    ],
    ids=["truncated", "overwritten", "gone", "empty"],
)
def test_changed_file_is_neither_restored_nor_kept(
    live: Callable[..., Life], change: Callable[[Path], object], life: str
) -> None:
    last, file = saved(live)
    before = (last.server.folder / file).stat()
    change(last.server.folder / file)
    if (last.server.folder / file).exists():  # its times do not show it
        os.utime(last.server.folder / file, ns=(before.st_atime_ns, before.st_mtime_ns))
    calls = len(last.server.actions)
    with pytest.raises(UpstreamFault, match="has changed"):
        last.slots.restore(last.server, 0, file)
    assert len(last.server.actions) == calls
    if life == "next":
        last = live()
    assert last.load() == []
    assert on_disk(last) == []


def test_files_of_another_server_are_removed(live: Callable[..., Life], tmp_path: Path) -> None:
    weights = tmp_path / "m.gguf"
    weights.write_bytes(b"weights")
    words = ("-m", str(weights))
    kinds = {"environment": {"LLAMA_ARG_CACHE_TYPE_K": "q8_0"}}
    changes: list[Callable[[], list[str]]] = [
        lambda: live(*words, "-c", "8192").load(),
        lambda: live(*words).load(build="b2"),
        lambda: live(*words, **kinds).load(),
        lambda: weights.write_bytes(b"other weights") * live(*words).load(),
    ]
    for change in changes:
        life, file = saved(live, *words)
        assert live(*words).load() == [file]
        assert change() == []
        assert on_disk(life) == []


def test_orphans_are_removed_and_other_files_are_not(live: Callable[..., Life]) -> None:
    life, file = saved(live)
    prefix = file.rpartition("-")[0]
    for name in (f"{prefix}-0123.bin", "slotproxy-0123-4567.bin", "mine.bin"):
        (life.server.folder / name).write_bytes(b"x")
    live().load()
    assert on_disk(life) == sorted([file, "mine.bin", "slotproxy-0123-4567.bin"])


def replaced(old: str, new: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(b"\0" * 4096),
        lambda path: path.write_bytes(path.read_bytes() + b" " * slot_folder.LARGEST),
        lambda path: (path.unlink(), os.mkfifo(path)),
        replaced('"prompt":', '"prompts":'),
        replaced('"model":"m"', '"model":"other"'),
        replaced('"slotproxy-', '"slotproxy-other-'),
    ],
)
def test_file_without_a_sidecar_that_fits_is_removed(
    live: Callable[..., Life], change: Callable[[Path], object]
) -> None:
    last, file = saved(live)
    change(last.server.folder / f"{file}.json")
    last = live()
    assert last.load() == []
    assert list(last.server.folder.glob("slotproxy-*")) == []


def test_sidecar_is_private_and_ends_with_its_file(live: Callable[..., Life]) -> None:
    life, file = saved(live)
    sidecar = life.server.folder / f"{file}.json"
    assert sidecar.stat().st_mode & 0o777 == 0o600
    torn = sidecar.with_name(f"{sidecar.name}.new")
    torn.write_bytes(b"{")  # written when the gateway was killed
    (life.server.folder / file).unlink()
    live().load()
    assert not sidecar.exists()
    assert not torn.exists()


def test_sidecar_with_the_longest_chain_is_read(live: Callable[..., Life]) -> None:
    life = live()
    life.load()
    life.world.turn(LONG, tuple(range(1, MOST + 1)))
    life.slots.save(life.server)
    (prompt,) = life.world.scheduler.saved_slots.prompts("m")
    assert len(prompt.chain.links) == MOST
    assert live().load() == [prompt.file]


def test_files_of_models_that_are_not_used_are_removed(
    live: Callable[..., Life], monkeypatch: pytest.MonkeyPatch
) -> None:
    life, file = saved(live)
    folder = life.keeper.open(life.server.folder)
    assert folder is not None
    folder.sweep_all()
    names = sorted(path.name for path in folder.path.glob("slotproxy-*"))
    assert names == [file, f"{file}.json"]
    monkeypatch.setattr(slot_folder, "LASTING", 0.0)
    folder.sweep_all()
    assert list(folder.path.glob("slotproxy-*")) == []


@pytest.mark.parametrize(
    ("fault", "tokens", "why"),
    [(UpstreamFault("no space left"), 279, "no space left"), (None, 0, "it has only 0 of")],
)
def test_save_that_fails_leaves_no_file(
    live: Callable[..., Life],
    caplog: pytest.LogCaptureFixture,
    fault: UpstreamFault | None,
    tokens: int,
    why: str,
) -> None:
    life = used(live)
    life.server.fault, life.server.tokens = fault, tokens
    life.slots.save(life.server)
    assert (life.files(), on_disk(life)) == ([], [])
    assert f"slot 0 is not saved: {why}" in caplog.text


def test_saving_takes_a_bounded_time(
    live: Callable[..., Life], monkeypatch: pytest.MonkeyPatch
) -> None:
    life = used(live)
    life.server.fault = UpstreamTimeout("silent")
    life.slots.save(life.server)
    ((_, _, seconds),) = life.server.actions
    assert seconds is not None
    assert 0 < seconds <= slot_keeper.SAVING
    monkeypatch.setattr(slot_keeper, "SAVING", 0.0)
    life.slots.save(life.server)
    assert len(life.server.actions) == 1


def test_full_disk_does_not_hinder_the_model(
    live: Callable[..., Life], caplog: pytest.LogCaptureFixture
) -> None:
    life = used(live)
    life.server.folder.rename(life.server.folder.with_name("moved"))
    life.slots.save(life.server)
    assert "is not saved" in caplog.text or "cannot save" in caplog.text
    life.server.folder.with_name("moved").rename(life.server.folder)


def test_two_restores_in_vain_end_saving(
    live: Callable[..., Life], caplog: pytest.LogCaptureFixture
) -> None:
    life, _ = saved(live)
    life.world.scheduler.saved_slots.adopt("m", (), 2)
    life.world.turn(LONG)
    life.slots.save(life.server)
    assert on_disk(life) == []
    assert "its slots are not saved any more" in caplog.text
    life.load()
    assert life.slots.folder is None


def test_second_gateway_saves_nothing_in_the_same_folder(
    live: Callable[..., Life], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    life, file = saved(live)
    other = Life(tmp_path / "slots")
    assert other.load() == []
    assert other.slots.folder is None
    assert "another slotproxy uses" in caplog.text
    assert on_disk(life) == [file]


def test_replaced_model_saves_nothing(live: Callable[..., Life]) -> None:
    life = used(live)
    life.slots.retire()
    life.slots.save(life.server)
    assert on_disk(life) == []


def test_removed_model_keeps_its_files(live: Callable[..., Life]) -> None:
    life, file = saved(live)
    life.world.scheduler.drain("m")
    life.slots.save(life.server)
    assert on_disk(life) == [file]


def test_server_without_the_flag_is_left_alone(tmp_path: Path) -> None:
    keeper = SlotKeeper(World(disk=1).scheduler.saved_slots, tmp_path / "own")
    assert keeper.of(config()) is None
    assert keeper.of(config(f"vllm ${{PORT}} {FLAG} x", kind="openai")) is None
    missing = config(f"sh ${{PORT}} {FLAG} {tmp_path / 'missing'}")
    assert begun(tmp_path, missing) == missing
    assert not (tmp_path / "own").exists()


def program(tmp_path: Path, script: str, more: str = "") -> ModelConfig:
    file = tmp_path / "llama-server"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return config(f"{file} -m m.gguf --port ${{PORT}}{more}", save_slots=True)


def begun(tmp_path: Path, before: ModelConfig) -> ModelConfig:
    """The configuration that the server is started with."""
    slots = SlotKeeper(World(disk=1).scheduler.saved_slots, tmp_path / "own").of(before)
    assert slots is not None
    return slots.begin()


@pytest.mark.parametrize(
    ("listed", "words", "flags"),
    [
        (f"{FLAG} --cache-ram --no-cache-idle-slots", "", ["--cache-ram", "0"]),
        (f"{FLAG} --cache-ram --no-cache-idle-slots", " -cram 512", ["--no-cache-idle-slots"]),
        (f"{FLAG} --cache-ram --no-cache-idle-slots", " -cram 512 --cache-idle-slots", []),
        (FLAG, "", []),
    ],
)
def test_flags_that_the_server_lists_are_added(
    tmp_path: Path, listed: str, words: str, flags: list[str]
) -> None:
    before = program(tmp_path, f"echo '{listed}'", words)
    own = (FLAG, str(tmp_path / "own"), *flags)
    assert begun(tmp_path, before).command == (*before.command, *own)
    assert (tmp_path / "own").stat().st_mode & 0o777 == 0o700


def test_time_for_the_help_of_a_program_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_keeper, "HELP_TIMEOUT", 0.05)
    silent = program(tmp_path, "exec sleep 60")
    assert begun(tmp_path, silent) == silent


def test_flags_are_not_added_for_a_server_that_lacks_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = program(tmp_path, "echo '--port PORT'")
    assert begun(tmp_path, before) == before
    assert "has no --slot-save-path" in caplog.text


def test_what_files_hold_is_known_after_a_load(live: Callable[..., Life]) -> None:
    life, file = saved(live)
    totals = life.slots.kept()
    assert totals.tokens == 279 and totals.size == (life.server.folder / file).stat().st_size
    later = live()
    later.load()
    assert later.slots.kept() == totals
    later.keeper.slots.forget("m", [file])
    assert later.slots.kept() == SavedTotals()
