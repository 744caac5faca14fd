"""One choice from admission to its end.

An attempt that failed before it began is placed again (`retries` says where); what fails later goes
on elsewhere, or is the caller's to tell. The lease is given back exactly once, in the `finally`
around each attempt, which closing the generator reaches on every path.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from ..aside import aside
from ..cancel import Cancel
from ..core.events import Batch
from ..core.request import CompletionRequest
from ..core.task import Task
from ..errors import (
    BackendBusy,
    BackendDown,
    ContextExceeded,
    GatewayError,
    NoBackend,
    Unsupported,
    UpstreamFault,
    UpstreamTimeout,
)
from ..scheduling.state import Want
from .caller import Caller
from .fitting import fit, may_fit, warnings
from .info import Info
from .pipeline import Answering
from .seat import Seat

if TYPE_CHECKING:
    from .answer import Gateway

LARGE = 1 << 20  # characters of a prompt, or tokens, that are digested beside the loop


def placed(
    gateway: Gateway,
    task: Task,
    model: str,
    began: float,
    cancel: Cancel,
    info: Info,
    caller: Caller,
) -> Iterator[Batch]:
    """Place a choice, again when it fails before it began, and drive it. `began` is the clock's
    time of the request. Raises errors of `proxy.errors`."""
    may_fit(task, gateway.registry.pool(model), cancel)
    want = _want(gateway, task, model, caller)
    seat = Seat(gateway, want, cancel, info, caller.tell_place)
    reason: GatewayError | None = None
    while True:
        begun = False
        run: Answering | None = None
        try:
            ticket = seat.take(reason is not None)
            if ticket is not None:
                yield from seat.wait(ticket)
            caps = seat.caps
            fitted = fit(task, seat.backend, caps, cancel)
            notices = gateway.scheduler.notices
            info.warnings = task.request.warnings + warnings(task, caps, cancel) + notices
            info.placed = gateway.clock() - began
            run = Answering(fitted, seat, cancel, gateway.manner)
            batches = iter(run)
            for batch in batches:
                begun = bool(batch)
                info.loading = "" if begun else seat.loading()
                yield batch
                if begun:
                    yield from batches
            return
        except NoBackend:
            if reason is None or isinstance(reason, BackendBusy):
                raise
            raise reason from None
        except BackendBusy as error:
            seat.failed(error)
            if begun:
                raise
            reason = error
        except (Unsupported, ContextExceeded) as error:
            if begun:
                raise
            seat.refused()
            reason = error
        except (UpstreamFault, UpstreamTimeout) as error:
            seat.failed(error)
            if begun or isinstance(error, UpstreamTimeout):
                raise
            reason = error
            if isinstance(error, BackendDown):
                reason = NoBackend("no backend of this model is up", retry_after=1.0)
        finally:
            if run is not None:
                run.close()
            seat.leave()


def _want(gateway: Gateway, task: Task, model: str, caller: Caller) -> Want:
    request = task.request
    chain = partial(
        gateway.scheduler.chain, task.prompt, task.boundaries, f"{model}\0{caller.group}"
    )
    return Want(
        model,
        task,
        chain=chain() if len(task.prompt) <= LARGE else aside(chain),
        key=caller.key,
        group=caller.group,
        session=task.session,
        share=caller.share,
        since=gateway.clock(),
        aside=caller.aside or _is_aside(request, gateway.side_jobs),
    )


def _is_aside(request: CompletionRequest, marks: tuple[str, ...]) -> bool:
    """A job beside a conversation, known by how its last message begins: a title, tags …"""
    text = request.messages[-1].content if request.messages else ""
    return bool(text) and text.lstrip().startswith(marks)
