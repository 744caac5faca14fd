"""Saved slots: files that a server writes, restores and erases on request, within a byte budget.

A server started with --slot-save-path saves a slot under a name of our choice, but never removes a
file. So each conversation keeps one name, which is overwritten; a file that exceeds the budget is
overwritten by an empty slot, which takes a few bytes. The name identifies the model and the
conversation's beginning. A file is only restored on the backend and model that wrote it.
"""

from __future__ import annotations

from hashlib import blake2b

from msgspec.structs import replace

from .lease import Lease
from .pool import Pool
from .settlement import MOVED
from .state import BackendRecord, CachedPrompt, SlotStep


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
