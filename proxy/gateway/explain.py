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
from ..errors import ContextExceeded, GatewayError, NoBackend, Unsupported, UpstreamFault
from ..prompting import constraints
from ..runtime.cancel import Cancel
from ..scheduling.placement import Place
from . import compaction, seeing
from .adapt import adapt_to_backend, check_prompt_size, limits, warnings
from .admission import without
from .answer import Answer
from .bounded import shortened
from .gateway import Gateway
from .generation import first_run
from .sent_prompt import with_sent_prompt
from .slot_request import slot_request_of


class Explanation(Struct, kw_only=True):
    """Of a model that must be loaded first, nothing else is known. The grammar begins at the start,
    with the answer behind reasoning, or with a call. `info` of the answer has the rest."""

    model: str
    must_load: bool = False
    describes_first: int = 0  # images, of which no text is known before that
    summarizes_first: bool = False  # the oldest messages, so the prompt is none that will be sent
    prompt: str | None = None
    prompt_tokens: int | None = None
    context: int = 0
    max_tokens: int | None = None
    rendered_by: str = "slotproxy"
    template: Mapping[str, str] = {}
    grammar: Mapping[str, str] | None = None
    queue: Mapping[str, float] | None = None
    places: tuple[Place, ...] = ()


def must_load(gateway: Gateway, name: str) -> Explanation | None:
    """The explanation for a model that must be loaded first. Raises as `answering`."""
    model, shown = gateway.registry.answering(name)
    if gateway.registry.unknown(model) or gateway.registry.status(model) not in LOADED:
        return Explanation(model=shown, must_load=True)
    return None


def explain(gateway: Gateway, answer: Answer) -> Explanation:
    """The explanation of an answer that has not begun, of a model that is loaded. Raises the errors
    that it would begin with. Like an attempt, it goes to another backend if one cannot take it."""
    registry, context, caller = gateway.registry, answer.context, answer.caller
    model, cancel, task, info = answer.model, answer.cancel, answer.tasks[0], answer.info
    if (allowance := caller.allowance) is not None:
        allowance.for_model(lambda: registry.names_of(model))
        allowance.check()
        if (most := allowance.plan.largest_answer) is not None:
            task = shortened(task, most)
    pool = [b for b in registry.pool(model, caller.may.barred_tiers) if b.is_loaded and b.caps]
    reason: GatewayError = registry.none_up(model)
    if not pool:
        raise reason
    explanation = Explanation(model=answer.name, template=dict(gateway.profile(model)))
    explanation.context = max(backend.n_ctx for backend in pool)
    if answer.describe is not None and seeing.is_blind(gateway, model, caller):
        explanation.describes_first = len(seeing.images(answer.request))
        return explanation
    if answer.compact is not None and explanation.context:
        explanation.prompt, explanation.prompt_tokens = _prompt(task, pool[0], cancel)
        if (explanation.prompt_tokens or 0) > compaction.limit_of(
            answer.request, explanation.context
        ):
            explanation.summarizes_first = True
            return explanation
    check_prompt_size(task, pool, cancel)
    request = slot_request_of(context, task, model, caller)
    while left := {b.name: b for b in pool if b.name not in request.exclude}:
        try:
            preview = context.scheduler.preview(request)
        except NoBackend:
            break
        names = (place.backend for place in preview.places)
        backend = left[next(filter(left.__contains__, names), next(iter(left)))]
        caps = backend.caps
        assert caps is not None, "of the pool"
        try:
            adapted = adapt_to_backend(task, backend, caps, cancel, key=caller.key)
        except (Unsupported, ContextExceeded) as error:
            reason, request = error, without(request, backend.name)
            continue
        explanation.prompt, explanation.prompt_tokens = _prompt(task, backend, cancel)
        explanation.max_tokens, explanation.context = adapted.max_tokens, backend.n_ctx
        explanation.rendered_by = "backend" if adapted.backend_templates else "slotproxy"
        explanation.grammar = _grammar(adapted, caps, cancel)
        explanation.queue = {"place": preview.place, "wait_seconds": round(preview.wait, 3)}
        explanation.places = preview.places
        ignored = warnings(task, adapted, caps, cancel)
        info.warnings = task.request.warnings + ignored + context.scheduler.notices
        info.placement, info.passed, info.task = preview.placement, preview.passed, task
        info.template = caps.template
        return explanation
    raise reason


def _prompt(task: Task, backend: Backend, cancel: Cancel) -> tuple[str | None, int | None]:
    """The prompt as text, and its tokens; None if the backend does not tell."""
    text = task.prompt if isinstance(task.prompt, str) else None
    with suppress(Unsupported, UpstreamFault):
        task = with_sent_prompt(task, backend, cancel)
        ids = backend.driver.prompt_ids(task, cancel)
        if ids is None and isinstance(task.prompt, str):
            return task.prompt, backend.counter.count_prompt(task, cancel)
        ids = [*task.prompt] if ids is None else ids
        return backend.driver.detokenize(ids), len(ids)
    return text, None


def _grammar(task: Task, caps: Capabilities, cancel: Cancel) -> Mapping[str, str] | None:
    if text := task.sampling.get("grammar"):
        return {"text": text, "begins": "start" if first_run(task) is task else "answer"}
    form = task.call_format
    if form is None or task.described or task.backend_templates or caps.native:
        return None
    bound = constraints.calls_of(task.request, form)
    text = compiling.grammar(bound, limits(caps), cancel).text if bound.tools else ""
    return {"text": text, "begins": "call"} if text else None
