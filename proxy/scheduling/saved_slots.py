"""Slots that outlive their server: which are worth a file before it ends, and what was saved.

The server of a hosted model ends and comes back, and so does the gateway. Before the end, the
prompts in slots are saved like those that are evicted (`slot_files`): one file for each
conversation, within the same budget. They stay known as files, so the next turn of a conversation
restores its own. Plain data (`SavedPrompt`) takes them to the next process. The chains in it are
salted with the group of the key, so a file is never found for another group.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from hashlib import blake2b

from msgspec import Struct
from msgspec.structs import replace

from .lease import Lease
from .outcomes import MOVED
from .policy import restoring_pays
from .pool import KEPT, Pool
from .prefix import MOST, Chain
from .state import BackendRecord, CachedPrompt, ConversationRecord, SlotStep


# Saved slots: files that a server writes, restores and erases on request, within a byte budget.
#
# A server started with --slot-save-path saves a slot under a name of our choice, but never
# removes a file. So each conversation keeps one name, which is overwritten; a file that exceeds
# the budget is overwritten by an empty slot, which takes a few bytes. The name identifies the
# model and the conversation's beginning. A file is only restored on the backend and model that
# wrote it.
def steps(pool: Pool, lease: Lease, budget: int, now: float) -> tuple[SlotStep, ...]:
    """The steps to do on a lease's slot before its request: save the old prompt, free disk space,
    restore the new one."""
    grant, old = lease.grant, lease.replaced
    backend = grant.backend
    result: list[SlotStep] = []
    # A continuation of an empty prompt has no prefix to find or name it by.
    if grant.save and old is not None and old.chain.links and budget:
        result.append(SlotStep("save", name_of(backend, old)))
        victims = _over(pool, backend, budget, old, grant.restore, now)
        if victims:
            result.append(SlotStep("erase"))
            result += [SlotStep("save", victim.file) for victim in victims]
            for victim in victims:
                pool.drop(victim)
    if grant.restore is not None:
        result.append(SlotStep("restore", grant.restore.file))
    return tuple(result)


def record_step(
    pool: Pool,
    lease: Lease,
    step: SlotStep,
    *,
    tokens: int,
    size: int,
    seconds: float,
    groups: bool,
) -> None:
    """Record a step. `tokens` -1: it failed. `groups`: there are several groups of keys."""
    backend, old, restore = lease.grant.backend, lease.replaced, lease.grant.restore
    if tokens > 0 and seconds > 0:
        backend.restore_rate += MOVED * (tokens / seconds - backend.restore_rate)
    if step.action == "save" and old is not None and step.file == old.conversation.file:
        for held in files_of(pool, backend):
            if held.file == step.file:
                pool.drop(held)
        if tokens > 0:
            old.slot, old.file, old.size = None, step.file, size
            backend.saved += 1
            pool.put(old)
        lease.replaced = None
    elif step.action == "restore" and restore is not None:
        lease.replaced = None
        if tokens > 0:
            backend.restored += 1
        else:
            pool.drop(restore)
            # What the slot holds now is unknown.
            lease.grant = replace(lease.grant, reuse=None, cached=0, restore=None, fresh=groups)


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


def files_of(pool: Pool, backend: BackendRecord) -> list[CachedPrompt]:
    return [held for held in pool.kept(backend) if held.file]


def _over(
    pool: Pool,
    backend: BackendRecord,
    budget: int,
    new: CachedPrompt,
    needed: CachedPrompt | None,
    now: float,
) -> list[CachedPrompt]:
    """The files to overwrite so that one more fits the budget, least worth first."""
    files = [held for held in files_of(pool, backend) if held.file != new.conversation.file]
    spent = sum(held.size for held in files)
    per_token = max((held.size / max(1, held.tokens) for held in files), default=0.0)
    spent += int(per_token * new.tokens)
    going = []
    for held in sorted(
        (held for held in files if held is not needed),
        key=lambda held: pool.returns.chance(held.conversation, now) * held.tokens,
    ):
        if spent <= budget:
            break
        spent -= held.size
        going.append(held)
    return going


LEAST = 64  # tokens of a prompt that is worth a file

Worth = Callable[[CachedPrompt], tuple[float, float]]
Found = Callable[[str], tuple[Pool, BackendRecord] | None]


class SlotSave(Struct, frozen=True):
    """A slot to save to a file of its server; about so many tokens."""

    slot: int
    file: str
    tokens: int


class Kept(Struct, frozen=True):
    """What saved prompts are together: tokens, and bytes of files."""

    tokens: int = 0
    size: int = 0


class SavedPrompt(Struct, frozen=True, array_like=True, kw_only=True):
    """A prompt in a file of `size` bytes. `links`, `ends` and `turn` are its chain, `prompt` and
    `tokens` as of `CachedPrompt`. Its conversation has had so many `turns` and has been silent for
    so many seconds. Raises ValueError for values that no prompt has."""

    file: str
    size: int
    links: tuple[bytes, ...]
    ends: tuple[int, ...]
    turn: int
    group: str
    prompt: int
    tokens: int
    turns: int
    silence: float

    def __post_init__(self) -> None:
        sound = 0 < len(self.links) == len(self.ends) <= MOST and 0 < self.turn <= len(self.links)
        if not (sound and self.size > 0 and 0 < self.prompt <= self.tokens and self.silence >= 0):
            raise ValueError("a saved prompt is broken")


class SavedSlots:
    """The saved prompts of backends, by the backend's name. `find` returns the pool and the record
    of a backend; `lock` guards both. `budget` is the bytes of files that a backend may have."""

    def __init__(
        self, lock: threading.RLock, find: Found, clock: Callable[[], float], budget: int
    ) -> None:
        self._lock = lock
        self._find = find
        self._clock = clock
        self._budget = budget

    def leave(self, name: str) -> None:
        """Grant none of the slots before the next `update`: the server is about to end, and what a
        waiting request finds in a slot then would be lost."""
        with self._lock:
            found = self._find(name)
            if found is not None:
                found[1].leaving = True
                found[0].refresh(found[1])

    def to_save(self, name: str) -> tuple[SlotSave, ...]:
        """The slots that are worth a file, the last used first. A conversation that was silent for
        long counts too: it may return tomorrow."""
        with self._lock:
            found = self._find(name)
            if found is None or not self._budget:
                return ()
            pool, backend = found
            newest: dict[str, CachedPrompt] = {}
            for slot in backend.slots:
                held = slot.held
                if held is None or slot.busy or not _is_worth_a_file(held):
                    continue
                if not restoring_pays(pool, backend, held.tokens, held.tokens):
                    continue
                file = name_of(backend, held)
                if file not in newest or newest[file].used < held.used:
                    newest[file] = held
            order = sorted(newest.items(), key=lambda item: -item[1].used)
            return tuple(
                SlotSave(held.slot.id, file, held.tokens)
                for file, held in order
                if held.slot is not None
            )

    def make_room(self, name: str, save: SlotSave) -> tuple[str, ...] | None:
        """Forget files that are worth less than this one, so that it fits; returns their names.
        None if it cannot fit. The first file of a backend tells how large a token is."""
        with self._lock:
            found = self._find(name)
            if found is None or save.slot >= len(found[1].slots):
                return None
            pool, backend = found
            held = backend.slots[save.slot].held
            if held is None:
                return None
            files = [other for other in files_of(pool, backend) if other.file != save.file]
            need = max((other.size / max(1, other.tokens) for other in files), default=0.0)
            budget, worth = self._budget - need * save.tokens, self._worth(pool)
            going = _beyond(files, budget, worth)
            if budget < 0 or any(worth(other) > worth(held) for other in going):
                return None
            return _dropped(pool, going)

    def saved(
        self, name: str, save: SlotSave, tokens: int, size: int, seconds: float
    ) -> tuple[str, ...]:
        """Record a file that was written. Returns the names of files to remove, because they exceed
        the budget."""
        with self._lock:
            found = self._find(name)
            if found is None or save.slot >= len(found[1].slots):
                return (save.file,)
            pool, backend = found
            slot = backend.slots[save.slot]
            held = slot.held
            if held is None or slot.busy or held.conversation.file != save.file:
                return (save.file,)
            for other in files_of(pool, backend):
                if other.file == save.file:
                    pool.drop(other)
            pool.drop(held)
            held.slot, held.file, held.size = None, save.file, size
            held.tokens, held.prompt = tokens, min(held.prompt, tokens)
            pool.put(held)
            backend.saved += 1
            if seconds > 0:
                backend.restore_rate += MOVED * (tokens / seconds - backend.restore_rate)
            return _dropped(pool, _beyond(files_of(pool, backend), self._budget, self._worth(pool)))

    def prompts(self, name: str) -> tuple[SavedPrompt, ...]:
        """All saved prompts of a backend, as plain data."""
        with self._lock:
            found = self._find(name)
            if found is None:
                return ()
            now = self._clock()
            return tuple(_exported(held, now) for held in files_of(*found))

    def kept(self, name: str) -> Kept:
        """What the files of a backend hold."""
        with self._lock:
            found = self._find(name)
            files = files_of(*found) if found is not None else ()
            return Kept(sum(one.tokens for one in files), sum(one.size for one in files))

    def beginning(self, name: str) -> str:
        """The beginning of the names of a backend's files, "" if there is no such backend."""
        with self._lock:
            found = self._find(name)
            return beginning_of(found[1].model) if found is not None else ""

    def in_flight(self, name: str) -> int:
        with self._lock:
            found = self._find(name)
            return found[1].in_flight if found is not None else 0

    def vain(self, name: str) -> int:
        """How many of the last restored files were of no use, in a row."""
        with self._lock:
            found = self._find(name)
            return found[1].vain if found is not None else 0

    def adopt(self, name: str, prompts: Sequence[SavedPrompt], vain: int) -> None:
        """Replace what is known about the files of a backend."""
        with self._lock:
            found = self._find(name)
            if found is None:
                return
            pool, backend = found
            for held in files_of(pool, backend):
                pool.drop(held)
            backend.vain = vain
            now = self._clock()
            for saved in sorted(prompts, key=lambda saved: -saved.silence)[-KEPT:]:
                _adopt(pool, backend, saved, now)

    def forget(self, name: str, files: Collection[str]) -> None:
        with self._lock:
            found = self._find(name)
            if found is not None:
                for held in files_of(*found):
                    if held.file in files:
                        found[0].drop(held)

    def _worth(self, pool: Pool) -> Worth:
        now = self._clock()
        return lambda held: (pool.returns.chance(held.conversation, now) * held.tokens, held.used)


def _beyond(files: Sequence[CachedPrompt], budget: float, worth: Worth) -> list[CachedPrompt]:
    """Those worth least, without which the others take at most so many bytes."""
    going = []
    spent = sum(held.size for held in files)
    for held in sorted(files, key=worth):
        if spent <= budget:
            break
        spent -= held.size
        going.append(held)
    return going


def _dropped(pool: Pool, files: Sequence[CachedPrompt]) -> tuple[str, ...]:
    for held in files:
        pool.drop(held)
    return tuple(held.file for held in files)


def _is_worth_a_file(held: CachedPrompt) -> bool:
    return held.tokens >= LEAST and bool(held.chain.links) and not held.conversation.background


def _exported(held: CachedPrompt, now: float) -> SavedPrompt:
    chain, conversation = held.chain, held.conversation
    return SavedPrompt(
        file=held.file,
        size=max(1, held.size),
        links=chain.links,
        ends=chain.ends,
        turn=chain.turn,
        group=conversation.group,
        prompt=max(1, held.prompt),
        tokens=max(1, held.prompt, held.tokens),
        turns=conversation.turns,
        silence=max(0.0, now - held.used),
    )


def _adopt(pool: Pool, backend: BackendRecord, saved: SavedPrompt, now: float) -> None:
    chain = Chain(saved.links, saved.ends, saved.turn)
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
