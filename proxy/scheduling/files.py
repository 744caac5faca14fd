"""What slots held, in files of the server, within a budget of bytes.

A server started with --slot-save-path saves a slot under a name that we give, restores and erases
it, but removes no file. So a conversation keeps its name, and is written over; and what has to go
because the budget is spent is written over by an empty slot, which takes a few bytes. The name
tells the model and what the conversation began with; a file is only ever asked of the backend and
the model that it was written by.
"""

from __future__ import annotations

from hashlib import blake2b

from .books import MOVED
from .knowledge import Pool
from .lease import Lease
from .state import Backend, Conversation, Held, Step


def steps(pool: Pool, lease: Lease, budget: int, now: float) -> tuple[Step, ...]:
    """What must be done to the slot of a lease first: save what it holds, make room on the disk,
    restore what it is to hold."""
    grant, old = lease.grant, lease.before
    backend = grant.backend
    found: list[Step] = []
    # What goes on from an empty prompt has no beginning to be found, and named, by.
    if grant.save and old is not None and old.chain.links and budget:
        conversation = old.conversation
        found.append(Step("save", _name(backend, conversation, old)))
        victims = _over(pool, backend, budget, old, grant.restore, now)
        if victims:
            found.append(Step("erase"))
            found += [Step("save", victim.file) for victim in victims]
            for victim in victims:
                pool.drop(victim)
    if grant.restore is not None:
        found.append(Step("restore", grant.restore.file))
    return tuple(found)


def stepped(pool: Pool, lease: Lease, step: Step, tokens: int, size: int, seconds: float) -> None:
    """A step was done, or was not (`tokens` -1)."""
    backend, old, restore = lease.grant.backend, lease.before, lease.grant.restore
    if tokens > 0 and seconds > 0:
        backend.moving += MOVED * (tokens / seconds - backend.moving)
    if step.action == "save" and old is not None and step.file == old.conversation.file:
        for held in _files(pool, backend):
            if held.file == step.file:
                pool.drop(held)
        if tokens > 0:
            old.slot, old.file, old.size = None, step.file, size
            backend.saved += 1
            pool.put(old)
        lease.before = None
    elif step.action == "restore" and restore is not None:
        lease.before = None
        if tokens > 0:
            backend.restored += 1
        else:
            pool.drop(restore)


def _name(backend: Backend, conversation: Conversation, held: Held) -> str:
    """By the model and by what the conversation began with."""
    if not conversation.file:
        model = blake2b(backend.model.encode(), digest_size=6).hexdigest()
        conversation.file = f"slotproxy-{model}-{held.chain.links[held.chain.turn - 1].hex()}.bin"
    return conversation.file


def _files(pool: Pool, backend: Backend) -> list[Held]:
    return [held for held in pool.kept(backend) if held.file]


def _over(
    pool: Pool, backend: Backend, budget: int, new: Held, needed: Held | None, now: float
) -> list[Held]:
    """What has to go so that one more fits, the least worth first."""
    files = [held for held in _files(pool, backend) if held.file != new.conversation.file]
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
