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
        self.asked: list[tuple[SlotAction, str, float | None]] = []

    def slot_action(
        self, action: SlotAction, slot: int, file: str, seconds: float | None = None
    ) -> tuple[int, int]:
        self.asked.append((action, file, seconds))
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
        return [one.file for one in self.world.scheduler.saved_slots.prompts("m")]

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
    one, file = saved(live)
    one.slots.begin()  # before anybody has noticed the end of the last server
    assert one.slots.keeps_files
    one.slots.on_loaded(caps)
    assert one.files() == [file]


def test_server_that_could_not_save_for_once_loses_no_files(live: Callable[..., Life]) -> None:
    one, file = saved(live)
    one.slots.begin()
    one.slots.on_loaded(CAPS)
    assert not one.slots.keeps_files
    one.world.scheduler.update("m", BackendFacts(model="m", slots=1), up=True, anew=True)
    assert one.files() == []
    assert one.load() == [file]


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
    one, file = saved(live)
    before = (one.server.folder / file).stat()
    change(one.server.folder / file)
    if (one.server.folder / file).exists():  # its times do not show it
        os.utime(one.server.folder / file, ns=(before.st_atime_ns, before.st_mtime_ns))
    asked = len(one.server.asked)
    with pytest.raises(UpstreamFault, match="has changed"):
        one.slots.restore(one.server, 0, file)
    assert len(one.server.asked) == asked
    if life == "next":
        one = live()
    assert one.load() == []
    assert on_disk(one) == []


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
        one, file = saved(live, *words)
        assert live(*words).load() == [file]
        assert change() == []
        assert on_disk(one) == []


def test_orphans_are_removed_and_other_files_are_not(live: Callable[..., Life]) -> None:
    one, file = saved(live)
    prefix = file.rpartition("-")[0]
    for name in (f"{prefix}-0123.bin", "slotproxy-0123-4567.bin", "mine.bin"):
        (one.server.folder / name).write_bytes(b"x")
    live().load()
    assert on_disk(one) == sorted([file, "mine.bin", "slotproxy-0123-4567.bin"])


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
    one, file = saved(live)
    change(one.server.folder / f"{file}.json")
    one = live()
    assert one.load() == []
    assert list(one.server.folder.glob("slotproxy-*")) == []


def test_sidecar_is_private_and_ends_with_its_file(live: Callable[..., Life]) -> None:
    one, file = saved(live)
    sidecar = one.server.folder / f"{file}.json"
    assert sidecar.stat().st_mode & 0o777 == 0o600
    torn = sidecar.with_name(f"{sidecar.name}.new")
    torn.write_bytes(b"{")  # written when the gateway was killed
    (one.server.folder / file).unlink()
    live().load()
    assert not sidecar.exists()
    assert not torn.exists()


def test_sidecar_with_the_longest_chain_is_read(live: Callable[..., Life]) -> None:
    one = live()
    one.load()
    one.world.turn(LONG, tuple(range(1, MOST + 1)))
    one.slots.save(one.server)
    (prompt,) = one.world.scheduler.saved_slots.prompts("m")
    assert len(prompt.chain.links) == MOST
    assert live().load() == [prompt.file]


def test_files_of_models_that_are_not_used_are_removed(
    live: Callable[..., Life], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, file = saved(live)
    folder = one.keeper.open(one.server.folder)
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
    one = used(live)
    one.server.fault, one.server.tokens = fault, tokens
    one.slots.save(one.server)
    assert (one.files(), on_disk(one)) == ([], [])
    assert f"slot 0 is not saved: {why}" in caplog.text


def test_saving_takes_a_bounded_time(
    live: Callable[..., Life], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = used(live)
    one.server.fault = UpstreamTimeout("silent")
    one.slots.save(one.server)
    ((_, _, seconds),) = one.server.asked
    assert seconds is not None
    assert 0 < seconds <= slot_keeper.SAVING
    monkeypatch.setattr(slot_keeper, "SAVING", 0.0)
    one.slots.save(one.server)
    assert len(one.server.asked) == 1


def test_full_disk_does_not_hinder_the_model(
    live: Callable[..., Life], caplog: pytest.LogCaptureFixture
) -> None:
    one = used(live)
    one.server.folder.rename(one.server.folder.with_name("moved"))
    one.slots.save(one.server)
    assert "is not saved" in caplog.text or "cannot save" in caplog.text
    one.server.folder.with_name("moved").rename(one.server.folder)


def test_two_restores_in_vain_end_saving(
    live: Callable[..., Life], caplog: pytest.LogCaptureFixture
) -> None:
    one, _ = saved(live)
    one.world.scheduler.saved_slots.adopt("m", (), 2)
    one.world.turn(LONG)
    one.slots.save(one.server)
    assert on_disk(one) == []
    assert "its slots are not saved any more" in caplog.text
    one.load()
    assert one.slots.folder is None


def test_second_gateway_saves_nothing_in_the_same_folder(
    live: Callable[..., Life], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, file = saved(live)
    other = Life(tmp_path / "slots")
    assert other.load() == []
    assert other.slots.folder is None
    assert "another slotproxy uses" in caplog.text
    assert on_disk(one) == [file]


def test_replaced_model_saves_nothing(live: Callable[..., Life]) -> None:
    one = used(live)
    one.slots.retire()
    one.slots.save(one.server)
    assert on_disk(one) == []


def test_removed_model_keeps_its_files(live: Callable[..., Life]) -> None:
    one, file = saved(live)
    one.world.scheduler.drain("m")
    one.slots.save(one.server)
    assert on_disk(one) == [file]


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
    """What the server is started with."""
    slots = SlotKeeper(World(disk=1).scheduler.saved_slots, tmp_path / "own").of(before)
    assert slots is not None
    return slots.begin()


@pytest.mark.parametrize(
    ("listed", "given", "flags"),
    [
        (f"{FLAG} --cache-ram --no-cache-idle-slots", "", ["--cache-ram", "0"]),
        (f"{FLAG} --cache-ram --no-cache-idle-slots", " -cram 512", ["--no-cache-idle-slots"]),
        (f"{FLAG} --cache-ram --no-cache-idle-slots", " -cram 512 --cache-idle-slots", []),
        (FLAG, "", []),
    ],
)
def test_flags_that_the_server_lists_are_added(
    tmp_path: Path, listed: str, given: str, flags: list[str]
) -> None:
    before = program(tmp_path, f"echo '{listed}'", given)
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
    kept = life.slots.kept()
    assert kept.tokens == 279 and kept.size == (life.server.folder / file).stat().st_size
    later = live()
    later.load()
    assert later.slots.kept() == kept
    later.keeper.slots.forget("m", [file])
    assert later.slots.kept() == SavedTotals()
