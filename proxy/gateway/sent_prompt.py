"""The prompt of a task as its model gets it, to be counted or shown: for some chats, it is what the
server's own chat route makes of them."""

from __future__ import annotations

import msgspec

from ..backends.pools import Backend
from ..core.task import Task
from ..errors import Unsupported, UpstreamFault, UpstreamTimeout
from ..runtime.cancel import Cancel
from .adapt import constraint_of, in_mode

ANYTHING = "root ::= [^\\x00]*"  # in place of a grammar, whose presence alone changes a prompt


def with_sent_prompt(task: Task, backend: Backend, cancel: Cancel | None = None) -> Task:
    """The task with the server's prompt if it goes to the server's own chat route, for which the
    model is loaded. Our own prompt remains if the server does not tell, and beside pictures and
    sounds, whose tokens no text has. Raises the errors of a load, and Cancelled."""
    caps = backend.caps
    if caps is None or caps.native or not task.request.is_chat or task.media:
        return task
    sent = in_mode(task, backend, caps)
    if not sent.backend_templates:
        return task
    sampling = dict(task.sampling)
    if not sent.is_unconstrained and constraint_of(sent, caps) is not None:
        sampling.setdefault("grammar", ANYTHING)
    asked = msgspec.structs.replace(sent, max_tokens=1, sampling=sampling)
    driver = backend.driver
    if caps.provisional:
        for _ in driver.load(cancel or Cancel()):
            pass
    try:
        prompt = driver.server_prompt(asked)
    except (Unsupported, UpstreamFault, UpstreamTimeout):
        prompt = None
    return task if prompt is None else msgspec.structs.replace(task, prompt=prompt, breaks=())
