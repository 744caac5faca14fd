"""A replica as bytes, for who joins later: exactly as it is, with every order and every reference.

Pickle keeps both. What comes from Redis is not trusted for that with more than our own records:
the reader knows the names of these classes, and nothing else can be made by it.
"""

from __future__ import annotations

import io
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from ...core.task import Task
from .. import fair, knowledge, lease, parties, prefix, state, ticket
from ..scheduler import Scheduler
from . import ops, replica
from .replica import Replica, Rules

_NOWHERE = state.Backend("", "")
_Event = type(threading.Event())


def _conversation() -> state.Conversation:
    return state.Conversation()


def _backend() -> state.Backend:
    return state.Backend("", "")


def _slot() -> state.Slot:
    return state.Slot(0)


def _held() -> state.Held:
    return state.Held(_NOWHERE, prefix.Chain(), state.Conversation())


def _task(ids: bool, max_tokens: int | None) -> Task:
    return Task(prompt=() if ids else "", max_tokens=max_tokens)


def _fill(record: Any, values: tuple[Any, ...]) -> None:
    for name, value in zip(record.__struct_fields__, values, strict=True):
        setattr(record, name, value)


# These lead back to themselves, so they are made empty first and filled then.
_EMPTY: dict[Any, Callable[[], Any]] = {
    state.Conversation: _conversation,
    state.Backend: _backend,
    state.Slot: _slot,
    state.Held: _held,
}
_OTHERS: tuple[Any, ...] = (
    _fill,
    _task,
    fair.FairQueue,
    knowledge.Pool,
    knowledge.Returns,
    lease.Lease,
    ops.Facts,
    parties.Parties,
    prefix.Chain,
    replica.Member,
    state.Grant,
    state.Step,
    state.Want,
    ticket.Ticket,
    OrderedDict,
    set,
    frozenset,
)
_KNOWN = {(one.__module__, one.__qualname__): one for one in (*_OTHERS, *_EMPTY.values())}


class _Writer(pickle.Pickler):
    def reducer_override(self, found: Any) -> Any:
        empty = _EMPTY.get(type(found))
        if empty is not None:
            values = tuple(getattr(found, name) for name in found.__struct_fields__)
            return empty, (), values, None, None, _fill
        if isinstance(found, Task):
            return _task, (not isinstance(found.prompt, str), found.max_tokens)
        if isinstance(found, Scheduler):
            return _scheduler, ()
        if isinstance(found, _Event):
            return _event, ()
        return NotImplemented


def _scheduler() -> Scheduler:
    raise AssertionError("the reader puts its own here")


def _event() -> threading.Event:
    return threading.Event()


class _Reader(pickle.Unpickler):
    def __init__(self, data: bytes, scheduler: Scheduler) -> None:
        super().__init__(io.BytesIO(data))
        self._scheduler = scheduler

    def find_class(self, module: str, name: str) -> Any:
        if module == __name__ and name in ("_scheduler", "_event"):
            return _event if name == "_event" else lambda: self._scheduler
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is no record") from None


def dump(replica: Replica) -> bytes:
    """Between two entries."""
    out = io.BytesIO()
    parts = replica.now, replica.entries, replica.members, replica.facts
    _Writer(out, protocol=5).dump((parts, replica.scheduler.records))
    return out.getvalue()


def load(data: bytes, rules: Rules) -> Replica:
    """Raises ValueError for what is none."""
    found = Replica(rules)
    try:
        parts, records = _Reader(data, found.scheduler).load()
        found.now, found.entries, found.members, found.facts = parts
        found.scheduler.records = records
    except (pickle.UnpicklingError, EOFError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"no snapshot: {error}") from None
    return found
