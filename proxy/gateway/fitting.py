"""A task as one backend can take it: a finite length, a grammar it can read, or a clear refusal.

An old server dies of what it does not expect, so nothing goes there that was not looked at here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec

from .. import compiling
from ..backends.driver import Capabilities
from ..backends.registry import Backend
from ..backends.tokens import budget, most_tokens, must_fit
from ..cancel import Cancel
from ..core.invalid import Invalid
from ..core.sampling import WINDOWS, left_out
from ..core.task import Task
from ..errors import BadRequest, Unsupported, UpstreamFault, UpstreamTimeout
from ..prompting import bind
from ..prompting.calling import special_marks
from ..prompting.grammar import NEW, OLD, Limits
from ..prompting.reasoning import KIN
from ..prompting.toolcalls import FORMS, Form

SURELY = 8  # bytes a token: a prompt that has more for each token of the context is too long


def fit(task: Task, backend: Backend, caps: Capabilities, cancel: Cancel | None = None) -> Task:
    """The task as this backend can take it: a finite length, a grammar it can read, token ids that
    its model has. `cancel` ends the counting of a long prompt and the compiling of a grammar."""
    if not task.prompt and task.suffix is None and not (caps.queues or task.native):
        raise Unsupported("the backend of this model needs a prompt", param="prompt")
    task = _in_mode(task, backend, caps)
    if task.suffix is not None and not caps.infill:
        raise Unsupported(
            "the model cannot fill in: its backend has no tokens for it", param="suffix"
        )
    if not isinstance(task.prompt, str):
        backend.vocabulary.check(task.prompt, caps, "prompt")
    if task.sampling.get("logit_bias"):
        biased = [one for one, _ in task.sampling["logit_bias"] if type(one) is int]
        backend.vocabulary.check_harmless(biased, caps, "logit_bias")
    n = budget(task, caps, backend.n_ctx, backend.counter, cancel)
    sampling = dict(task.sampling)
    grammar = "" if task.free else _grammar(task, caps, cancel)
    if grammar:
        sampling["grammar"] = grammar
        if not caps.queues:
            _may_end(sampling)
    if caps.modern_sampling:
        for name in filter(sampling.__contains__, WINDOWS):
            if sampling[name] == -1:  # the whole context; newer servers no longer know -1
                sampling[name] = backend.n_ctx or -1
        if task.request.is_chat and not task.native:
            sampling["preserved_tokens"] = _marks(task.tool_form)
            if task.tool_form or task.thinks:
                # There may be a second run, and the first, cut short, must have told what was
                # cached.
                sampling["timings_per_token"] = True
    return msgspec.structs.replace(task, max_tokens=n, sampling=sampling)


def may_fit(task: Task, pool: Sequence[Backend], cancel: Cancel) -> None:
    """Refuse early, before a slot is taken, a prompt that no backend of a pool could hold. Raises
    ContextExceeded and Cancelled.

    A server that refuses long prompts itself takes seconds for 10 000 messages: it is spared those
    that are far too long. The backends of a pool serve one model. Its tokens are counted once for
    all of the same generation: PowerInfer's server reads the marks of a template as plain text.
    An infill is never too long: the servers that have it keep the text around the cursor."""
    if task.native or task.suffix is not None:
        return
    bound, n_ctx, up = most_tokens(task), 0, []
    for one in pool:
        caps = one.caps
        if one.up and caps is not None:
            room = one.n_ctx
            if bound < (room if caps.truncates else SURELY * room) or not room:
                return
            up.append(one)
            n_ctx = max(n_ctx, room)
    if len({one.caps.dialect for one in up if one.caps is not None}) != 1:
        return
    first = up[0]
    try:
        must_fit(task, n_ctx, first.counter, cancel)
    except (UpstreamFault, UpstreamTimeout):
        return  # whoever places the task meets it again, and goes elsewhere
    for text in (task.prompt, task.suffix):
        if isinstance(text, str) and (count := first.counter.known(text)):
            for other in up[1:]:
                other.counter.remember(text, count)


def _grammar(task: Task, caps: Capabilities, cancel: Cancel | None) -> str:
    """What binds the answer, the client's own or one of ours; "" for nothing."""
    own: str = task.sampling.get("grammar", "")
    if own:
        return own if caps.modern_sampling else _old_grammar(own, cancel)
    bound = _bound(task, caps)
    if bound is None:
        return ""
    try:
        return compiling.grammar(bound, limits(caps), cancel)
    except Invalid as error:  # an old server's limits are narrower: a newer one may take it
        raise Unsupported(str(error), param=error.param) from None


def _may_end(sampling: dict[str, Any]) -> None:
    """An old server aborts when its grammar is done and the end token is forbidden, for then
    nothing is left to choose. Raises Unsupported; a bias of "never" becomes one that can lose."""
    if sampling.get("ignore_eos"):
        raise Unsupported(
            "ignore_eos cannot be had together with a grammar on the backend of this model",
            param="ignore_eos",
        )
    if sampling.get("logit_bias"):
        sampling["logit_bias"] = [
            [token, -1000 if bias is False else bias] for token, bias in sampling["logit_bias"]
        ]


@cache
def _marks(tool_form: str) -> tuple[str, ...]:
    """The marks of thoughts and calls: they must come as text, although special tokens perhaps."""
    calls = special_marks(FORMS[tool_form]) if tool_form else ()
    return (*(tag for pair in KIN for tag in pair if tag), *calls)


def _in_mode(task: Task, backend: Backend, caps: Capabilities) -> Task:
    """Who makes the prompt: we, or the backend. Raises Unsupported for what nobody here can take.

    A call that must be is told in a form of ours, as a native backend does not make one of it."""
    request, native = task.request, caps.native or task.native
    if not native and caps.chat and backend.chat_mode != "completion":
        better = backend.chat_mode == "native" or task.foreign or bool(task.media)
        native = better and request.is_chat
    for kind in task.media:
        takes = caps.vision if kind == "image" else caps.audio
        if not (native and (takes or caps.native)):
            raise Unsupported(f"the backend of this model takes no {kind}", param="messages")
    if not native:
        return task
    forced = not caps.native and task.tool_form and bind.must_call(request)
    return msgspec.structs.replace(task, native=True, tool_form="generic" if forced else "")


def _bound(task: Task, caps: Capabilities) -> bind.Bound | None:
    """What binds the answer by a grammar of ours; a backend that has none binds nothing, and one
    that reads calls by itself has grammars of its own for them."""
    if caps.native or (task.native and not task.tool_form and bind.callable_tools(task.request)):
        return None
    return bind.from_start(task.request, form_of(task))


def limits(caps: Capabilities) -> Limits:
    """What the grammars of this backend may hold."""
    return NEW if caps.modern_sampling else OLD


def form_of(task: Task) -> Form | None:
    """The form in which the model writes calls; None where it has no tools to call."""
    return FORMS[task.tool_form] if task.tool_form else None


def bindable(task: Task, cancel: Cancel | None = None) -> None:
    """Refuse early, before any queue, what no backend could bind. Raises Invalid, QueueFull,
    Cancelled."""
    if task.free:
        return
    request = task.request
    form = form_of(task)
    own = task.sampling.get("grammar")
    schema = bind.document_schema(request)
    if own and (form is not None or schema is not None):
        what = "tools" if form is not None else "response_format"
        raise Invalid("grammar", f"cannot be had together with {what}")
    if schema is not None:
        compiling.by_schema(bind.JSON.encode(schema), cancel)
    bound = bind.from_start(request, form)
    if bound is not None:
        compiling.grammar(bound, NEW, cancel)
    elif form is not None:
        compiling.grammar(bind.calls_of(request, form), NEW, cancel)


def warnings(task: Task, caps: Capabilities, cancel: Cancel | None = None) -> tuple[str, ...]:
    """What this backend leaves out of a request. Raises QueueFull, Cancelled."""
    found: list[str] = []
    if "seed" in task.sampling and not caps.honours_seed:
        found.append("seed is ignored by this backend")
    if not caps.lacks.isdisjoint(task.sampling):
        found += left_out(task.sampling, caps.lacks)
    report = task.request.report
    if report.progress and not caps.progress:
        found.append("return_progress is left out: this backend reports no progress")
    if report.timings and not caps.modern_sampling:
        found.append("timings_per_token is left out: this backend reports timings at the end only")
    if report.tokens and not caps.modern_sampling:
        found.append("return_tokens is left out: this backend names no token ids")
    schema = None if task.free else bind.document_schema(task.request)
    if schema is not None and compiling.by_schema(bind.JSON.encode(schema), cancel).unchecked:
        found.append("a pattern of the schema is not regular and is not checked")
    return tuple(found)


def read_grammar(text: str, cancel: Cancel | None = None) -> None:
    """Refuse early a grammar that no server can read. Raises BadRequest, QueueFull, Cancelled."""
    try:
        compiling.own_grammar(text, cancel=cancel)
    except Invalid as error:
        raise BadRequest(error.reason, param="grammar") from None


def _old_grammar(text: str, cancel: Cancel | None) -> str:
    """The grammar in what an old server can read: it dies of what it cannot."""
    try:
        return compiling.own_grammar(text, OLD, cancel)
    except Invalid as error:
        raise Unsupported(
            f"the backend of this model cannot bear this grammar: {error.reason}", param="grammar"
        ) from None
