"""What would be done with a request, without doing it: nothing waits, is leased, loaded or charged.

A backend is asked for counts of tokens only, and for the prompt if it renders the prompt itself."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from msgspec import Struct

from .. import compiling
from ..backends.driver import Capabilities
from ..backends.pools import LOADED, Backend
from ..core.task import Task
from ..errors import (
    ContextExceeded,
    GatewayError,
    NoBackend,
    Unsupported,
    UpstreamFault,
    UpstreamTimeout,
)
from ..prompting import constraints
from ..runtime.cancel import Cancel
from ..scheduling.preview import Preview
from ..scheduling.state import SlotRequest
from . import compaction
from .adapt import adapt_to_backend, check_prompt_size, limits, warnings
from .admission import without
from .answer import Answer
from .attempt import slot_request_of
from .bounded import shortened
from .gateway import Gateway
from .generation import first_run
from .sent_prompt import count_sent_prompt, with_sent_prompt

NOT_TOLD = (Unsupported, UpstreamFault, UpstreamTimeout)


class Explanation(Struct, kw_only=True):
    """`info` of the answer has its placement and warnings."""

    model: str
    loads: bool = False  # the model must be loaded first, and only then the rest is known
    summarizes: bool = False  # a summary of the oldest messages would come first
    prompt: str | None = None
    prompt_tokens: int | None = None
    n_ctx: int = 0
    max_tokens: int | None = None
    backend_renders: bool = False
    template: Mapping[str, str] = {}
    grammar: str = ""
    grammar_begins: str = ""  # at the "start", with the "answer" behind reasoning, or with a "call"
    preview: Preview | None = None


def must_load(gateway: Gateway, name: str) -> Explanation | None:
    """The explanation for a model that must be loaded first. Raises as `answering`."""
    model, shown = gateway.registry.answering(name)
    if gateway.registry.unknown(model) or gateway.registry.status(model) not in LOADED:
        return Explanation(model=shown, loads=True)
    return None


def explain(gateway: Gateway, answer: Answer) -> Explanation:
    """The explanation of an answer that has not begun, of a model that is loaded. Raises the errors
    that it would begin with."""
    registry, context, caller = gateway.registry, answer.context, answer.caller
    model, cancel, task = answer.model, answer.cancel, answer.tasks[0]
    told = Explanation(model=answer.name)
    if (allowance := caller.allowance) is not None:
        allowance.for_model(lambda: registry.names_of(model))
        allowance.check()
        if (most := allowance.plan.largest_answer) is not None:
            task = shortened(task, most)
    pool = [b for b in registry.pool(model, caller.may.barred_tiers) if b.is_loaded]
    if not pool:
        raise registry.none_up(model)
    told.template = dict(gateway.profile(model))
    told.n_ctx = max(backend.n_ctx for backend in pool)
    if answer.compact is not None and told.n_ctx:
        first = pool[0]
        told.prompt_tokens = _count(task, first, cancel)
        if (told.prompt_tokens or 0) > compaction.limit_of(answer.request, told.n_ctx):
            told.summarizes, told.prompt = True, _text(task, first)
            return told
    check_prompt_size(task, pool, cancel)
    placed = _placed(answer, task, slot_request_of(context, task, model, caller))
    if placed is None:
        told.loads = True
        return told
    told.preview, backend, caps, adapted = placed
    info = answer.info
    info.warnings = task.request.warnings + warnings(task, adapted, caps, cancel)
    info.warnings += context.scheduler.notices
    info.backend, info.template, info.passed = backend.name, caps.template, told.preview.passed
    info.placement = told.preview.placement
    info.task = task
    info.uncached = adapted.sampling.get("cache_prompt") is False
    told.prompt = _text(with_sent_prompt(task, backend, cancel), backend)
    told.prompt_tokens = _count(task, backend, cancel)
    told.max_tokens, told.n_ctx = adapted.max_tokens, backend.n_ctx
    told.backend_renders = adapted.backend_templates
    told.grammar, told.grammar_begins = _grammar(adapted, caps, cancel)
    return told


def _placed(
    answer: Answer, task: Task, request: SlotRequest
) -> tuple[Preview, Backend, Capabilities, Task] | None:
    """Where a request would be placed, and its task for that backend; None if its model must be
    loaded first. Like an attempt, it goes to another backend if one cannot take it."""
    context = answer.context
    reason: GatewayError | None = None
    while True:
        try:
            preview = context.scheduler.preview(request)
        except NoBackend:
            raise reason or context.registry.none_up(answer.model) from None
        pool = context.registry.pool(answer.model, answer.caller.may.barred_tiers)
        left = {b.name: b for b in pool if b.name not in request.exclude}
        if not left:
            raise reason or context.registry.none_up(answer.model)
        names = [place.backend for place in preview.places if place.backend in left]
        backend = left[names[0]] if names else next(iter(left.values()))
        caps = backend.caps
        if caps is None or caps.provisional or not backend.is_loaded:
            return None
        try:
            adapted = adapt_to_backend(task, backend, caps, answer.cancel, key=answer.caller.key)
        except (Unsupported, ContextExceeded) as error:
            reason, request = error, without(request, backend.name)
            continue
        return preview, backend, caps, adapted


def _text(task: Task, backend: Backend) -> str | None:
    """The prompt as text; None if it has none, or its backend does not tell."""
    with suppress(*NOT_TOLD):
        ids = backend.driver.prompt_ids(task)
        if ids is None and isinstance(task.prompt, str):
            return task.prompt
        return backend.driver.detokenize([*(task.prompt if ids is None else ids)])
    return None


def _count(task: Task, backend: Backend, cancel: Cancel) -> int | None:
    with suppress(*NOT_TOLD):
        return count_sent_prompt(task, backend, cancel)
    return None


def _grammar(task: Task, caps: Capabilities, cancel: Cancel) -> tuple[str, str]:
    """The grammar of an answer, and where it begins."""
    if text := task.sampling.get("grammar"):
        return text, "start" if first_run(task) is task else "answer"
    form = task.call_format
    if form is None or task.described or task.backend_templates or caps.native:
        return "", ""
    bound = constraints.calls_of(task.request, form)
    if not bound.tools:
        return "", ""
    return compiling.grammar(bound, limits(caps), cancel).text, "call"
