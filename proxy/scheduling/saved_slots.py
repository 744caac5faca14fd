"""Saved slots: files that a server writes, restores and erases on request, within a byte budget.

A server started with --slot-save-path never removes a file. So each conversation keeps one name,
which is overwritten; a file that exceeds the budget is overwritten by an empty slot, which takes a
few bytes. A file is only restored on the backend and model that wrote it.

Before a hosted server ends, what its slots hold is saved in the same way (`SavedSlots`). Plain data
(`SavedPrompt`) takes it to the next process. Chains are salted with the group of the key, so a file
is never found for another group.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from operator import itemgetter

from msgspec import Struct
from msgspec.structs import replace

from .lease import Lease
from .outcomes import MOVED
from .policy import restoring_pays
from .pool import KEPT, Pool
from .prefix import MOST, Chain
from .state import BackendRecord, CachedPrompt, ConversationRecord, SlotStep, is_adapted


def steps(lease: Lease, budget: int, now: float) -> tuple[SlotStep, ...]:
    """The steps to do on a lease's slot before its request: save the old prompt, free disk space,
    restore the new one."""
    grant, old = lease.grant, lease.replaced
    backend = grant.backend
    result: list[SlotStep] = []
    # A continuation of an empty prompt has no prefix to find or name it by.
    if grant.save and old is not None and old.chain.links and budget:
        result.append(SlotStep("save", name_of(backend, old)))
        file = old.conversation.file
        going, _ = _beyond(backend, budget, now, file, old.tokens, grant.restore)
        victims = _dropped(backend, going)
        if victims:
            result.append(SlotStep("erase"))
            result += [SlotStep("save", victim) for victim in victims]
    if grant.restore is not None:
        result.append(SlotStep("restore", grant.restore.file))
    return tuple(result)


def record_step(
    lease: Lease, step: SlotStep, tokens: int, size: int, seconds: float, groups: bool
) -> None:
    """Record a step; no `tokens` if it failed. `groups`: there are several groups of keys, or of
    adapters."""
    backend, old, restore = lease.grant.backend, lease.replaced, lease.grant.restore
    _moved(backend, tokens, seconds)
    if step.action == "save" and old is not None and step.file == old.conversation.file:
        _forget(backend, (step.file,))
        if tokens > 0:
            _record_file(old, size)
        lease.replaced = None
    elif step.action == "restore" and restore is not None:
        lease.replaced = None
        if tokens > 0:
            backend.restored += 1
        else:
            backend.pool.drop(restore)
            # What the slot holds now is unknown.
            lease.grant = replace(lease.grant, reuse=None, cached=0, restore=None, fresh=groups)


def _moved(backend: BackendRecord, tokens: int, seconds: float) -> None:
    if tokens > 0 and seconds > 0:
        backend.restore_rate += MOVED * (tokens / seconds - backend.restore_rate)


def _record_file(held: CachedPrompt, size: int) -> None:
    held.slot, held.file, held.size = None, held.conversation.file, size
    held.backend.pool.put(held)
    held.backend.saved += 1


def _forget(backend: BackendRecord, names: Collection[str]) -> None:
    _dropped(backend, [held for held in files_of(backend) if held.file in names])


def name_of(backend: BackendRecord, held: CachedPrompt) -> str:
    """The conversation's file name, from its model and its first cached prompt."""
    conversation = held.conversation
    if not conversation.file:
        begins = held.chain.links[held.chain.turn - 1].hex()
        conversation.file = f"{beginning_of(backend.model)}{begins}.bin"
    return conversation.file


def beginning_of(model: str) -> str:
    """The beginning of the names of a model's files."""
    return f"slotproxy-{blake2b(model.encode(), digest_size=6).hexdigest()}-"


def files_of(backend: BackendRecord) -> list[CachedPrompt]:
    return [held for held in backend.pool.kept(backend) if held.file]


def _worth(held: CachedPrompt, now: float) -> tuple[float, float]:
    return held.backend.pool.expected_loss(held, now), held.used


def _beyond(
    backend: BackendRecord,
    budget: int,
    now: float,
    file: str = "",
    tokens: int = 0,
    needed: CachedPrompt | None = None,
) -> tuple[list[CachedPrompt], bool]:
    """The files worth least, without which the others take at most so many bytes, with one more
    `file` of so many tokens; and whether that is possible. The first file of a backend tells how
    large a token is."""
    files = [held for held in files_of(backend) if held.file != file]
    per_token = max((held.size / max(1, held.tokens) for held in files), default=0.0)
    left = budget - per_token * tokens - sum(held.size for held in files)
    going = []
    for held in sorted(files, key=lambda held: _worth(held, now)):
        if left >= 0:
            break
        if held is not needed:
            left += held.size
            going.append(held)
    return going, left >= 0


def _dropped(backend: BackendRecord, files: Sequence[CachedPrompt]) -> tuple[str, ...]:
    for held in files:
        backend.pool.drop(held)
    return tuple(held.file for held in files)


LEAST = 64  # tokens of a prompt that is worth a file


class SlotSave(Struct, frozen=True):
    """A slot to save to a file of its server; about so many tokens."""

    slot: int
    file: str
    tokens: int


class SavedTotals(Struct, frozen=True):
    """What saved prompts are together: tokens, and bytes of files."""

    tokens: int = 0
    size: int = 0


class SavedPrompt(Struct, frozen=True, array_like=True, kw_only=True):
    """A prompt in a file of `size` bytes. `prompt` and `tokens` are as of `CachedPrompt`. Its
    conversation has had so many `turns` and has been silent for so many seconds. Raises ValueError
    for values that no prompt has."""

    file: str
    size: int
    chain: Chain
    group: str
    prompt: int
    tokens: int
    turns: int
    silence: float

    def __post_init__(self) -> None:
        self.chain.check()
        sound = 0 < self.chain.turn <= len(self.chain.links) <= MOST
        if not (sound and self.size > 0 and 0 < self.prompt <= self.tokens and self.silence >= 0):
            raise ValueError("a saved prompt is broken")


class SavedSlots(Struct, frozen=True):
    """The saved prompts of backends, by the backend's name."""

    lock: threading.RLock  # guards the backends
    backends: Mapping[str, BackendRecord]
    clock: Callable[[], float]
    budget: int  # bytes of files that a backend may have

    @contextmanager
    def _of(self, name: str) -> Iterator[BackendRecord]:
        """An empty record stands in for a backend that was removed."""
        with self.lock:
            yield self.backends.get(name) or BackendRecord(name=name, model="", pool=Pool())

    def leave(self, name: str) -> None:
        """Grant none of the slots before the next `update`: the server is about to end, and what a
        waiting request finds in a slot then would be lost."""
        with self._of(name) as backend:
            backend.leaving = True
            backend.pool.refresh(backend)

    def to_save(self, name: str) -> tuple[SlotSave, ...]:
        """The slots that are worth a file, the last used first. A conversation that was silent for
        long counts too: it may return tomorrow."""
        with self._of(name) as backend:
            newest: dict[str, tuple[float, SlotSave]] = {}
            for slot in backend.slots if self.budget else ():
                held = slot.held
                if held is None or slot.busy or held.tokens < LEAST or not held.chain.links:
                    continue
                pays = restoring_pays(backend.pool, backend, held.tokens, held.tokens)
                if pays and not (held.conversation.background or is_adapted(held)):
                    file = name_of(backend, held)
                    save = held.used, SlotSave(slot.id, file, held.tokens)
                    newest[file] = max(save, newest.get(file, save), key=itemgetter(0))
            order = sorted(newest.values(), key=itemgetter(0), reverse=True)
            return tuple(save for _, save in order)

    def make_room(self, name: str, save: SlotSave) -> tuple[str, ...] | None:
        """Forget files that are worth less than this one, so that it fits; returns their names.
        None if it cannot fit."""
        with self._of(name) as backend:
            held = backend.slots[save.slot].held if save.slot < len(backend.slots) else None
            if held is None:
                return None
            now = self.clock()
            going, fits = _beyond(backend, self.budget, now, save.file, save.tokens)
            worth = _worth(held, now)
            if not fits or any(_worth(other, now) > worth for other in going):
                return None
            return _dropped(backend, going)

    def saved(
        self, name: str, save: SlotSave, tokens: int, size: int, seconds: float
    ) -> tuple[str, ...]:
        """Record a file. Returns the names of those to remove, because they exceed the budget."""
        with self._of(name) as backend:
            slot = backend.slots[save.slot] if save.slot < len(backend.slots) else None
            held = slot.held if slot is not None and not slot.busy else None
            if held is None or held.conversation.file != save.file:
                return (save.file,)
            _forget(backend, (save.file,))
            backend.pool.drop(held)
            held.tokens, held.prompt = tokens, min(held.prompt, tokens)
            _record_file(held, size)
            _moved(backend, tokens, seconds)
            going, _ = _beyond(backend, self.budget, self.clock())
            return _dropped(backend, going)

    def prompts(self, name: str) -> tuple[SavedPrompt, ...]:
        """All saved prompts of a backend, as plain data."""
        with self._of(name) as backend:
            now = self.clock()
            return tuple(_exported(held, now) for held in files_of(backend))

    def kept(self, name: str) -> SavedTotals:
        with self._of(name) as backend:
            files = files_of(backend)
            return SavedTotals(sum(held.tokens for held in files), sum(held.size for held in files))

    def beginning(self, name: str) -> str:
        """The beginning of the names of a backend's files, "" if there is no such backend."""
        with self._of(name) as backend:
            return beginning_of(backend.model) if backend.model else ""

    def in_flight(self, name: str) -> int:
        with self._of(name) as backend:
            return backend.in_flight

    def vain(self, name: str) -> int:
        """How many of the last restored files were of no use, in a row."""
        with self._of(name) as backend:
            return backend.vain

    def adopt(self, name: str, prompts: Sequence[SavedPrompt], vain: int) -> None:
        """Replace what is known about the files of a backend."""
        with self._of(name) as backend:
            _dropped(backend, files_of(backend))
            backend.vain = vain
            now = self.clock()
            for saved in sorted(prompts, key=lambda saved: -saved.silence)[-KEPT:]:
                _adopt(backend, saved, now)

    def forget(self, name: str, files: Collection[str]) -> None:
        with self._of(name) as backend:
            _forget(backend, files)


def _exported(held: CachedPrompt, now: float) -> SavedPrompt:
    conversation = held.conversation
    return SavedPrompt(
        file=held.file,
        size=max(1, held.size),
        chain=held.chain,
        group=conversation.group,
        prompt=max(1, held.prompt),
        tokens=max(1, held.prompt, held.tokens),
        turns=conversation.turns,
        silence=max(0.0, now - held.used),
    )


def _adopt(backend: BackendRecord, saved: SavedPrompt, now: float) -> None:
    pool, chain = backend.pool, saved.chain
    last = now - saved.silence
    conversation = pool.conversations.get(chain.links[chain.turn - 1])
    if conversation is None:
        conversation = ConversationRecord(turns=saved.turns, last=last, group=saved.group)
        pool.know(chain, conversation)
    conversation.file = saved.file
    pool.put(
        CachedPrompt(
            backend=backend,
            chain=chain,
            conversation=conversation,
            prompt=saved.prompt,
            tokens=saved.tokens,
            used=last,
            file=saved.file,
            size=saved.size,
        )
    )
